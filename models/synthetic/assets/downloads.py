"""Download picture sets: npm packages, unpacked into the assets folder.

The sets are not part of the repository. They are downloaded once; the model card lists their
licences.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from reellama.gguf_tools.cache_root import cache_root
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.temporary_folders import temporary_folder

ASSETS = cache_root() / "material"  # default folder of picture sets

# style -> (npm package, version, folder of its 64-pixel pictures inside the package)
EMOJI_PACKAGES = {
    "noto": ("emoji-datasource-google", "16.0.0", "img/google/64"),
    "twemoji": ("emoji-datasource-twitter", "16.0.0", "img/twitter/64"),
}
# Icon sets, one JSON file each: style -> (npm package, version). Licences: MIT (fluent),
# Apache-2.0 (noto-v1, fxemoji), CC BY 4.0 (emojione), CC BY-SA 4.0 (emojione-v1).
ICON_PACKAGES = {
    "fluent-flat": ("@iconify-json/fluent-emoji-flat", "1.2.6"),
    "fluent": ("@iconify-json/fluent-emoji", "1.2.7"),
    "emojione": ("@iconify-json/emojione", "1.2.3"),
    "emojione-v1": ("@iconify-json/emojione-v1", "1.2.3"),
    "noto-v1": ("@iconify-json/noto-v1", "1.2.5"),
    "fxemoji": ("@iconify-json/fxemoji", "1.2.2"),
}


def fetch_icons(style: str, assets: Path) -> Path:
    """The folder with an icon set's `icons.json`, downloaded into `assets` when missing.

    Raises as `fetch_emoji` does.
    """
    package, version = ICON_PACKAGES[style]
    folder = assets / package.rpartition("/")[2]
    if not (folder / "icons.json").is_file():
        _npm_unpack(f"{package}@{version}", folder, "")
    return folder


def fetch_emoji(style: str, assets: Path) -> Path:
    """The folder of 64-pixel PNGs of an emoji style, downloaded into `assets` when missing.

    Raises ReellamaError when npm is missing or fails, or the disk is full.
    """
    package, version, pictures = EMOJI_PACKAGES[style]
    folder = assets / package
    if not (folder / pictures).is_dir():
        _npm_unpack(f"{package}@{version}", folder, pictures)
    return folder / pictures


def _npm_unpack(package: str, folder: Path, pictures: str) -> None:
    """Download an npm package and unpack its licence and its folder `pictures` ("" for all of it)
    into `folder`. Raises ReellamaError."""
    npm = shutil.which("npm")
    if npm is None:
        raise ReellamaError(
            f"{package} is not in {folder.parent} and npm is not installed: install Node.js, "
            f"or unpack the npm package there by hand as {folder.name}/"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Unpack beside the final place and rename, so that a broken download leaves nothing behind.
        with temporary_folder(folder.parent) as scratch:
            packed = subprocess.run(
                [npm, "pack", "--silent", package],
                cwd=scratch,
                capture_output=True,
                text=True,
                check=False,
            )
            archives = list(scratch.glob("*.tgz"))
            if packed.returncode != 0 or len(archives) != 1:
                lines = packed.stderr.strip().splitlines() or ["no message"]
                raise ReellamaError(f"npm pack {package} failed: {lines[-1]}")
            with tarfile.open(archives[0]) as archive:
                pictures_and_licence = [
                    member
                    for member in archive.getmembers()
                    if member.name.startswith(f"package/{pictures}/" if pictures else "package/")
                    or member.name.startswith("package/LICENSE")
                ]
                _extract(archive, pictures_and_licence, scratch)
            os.replace(scratch / "package", folder)
    except OSError as error:
        raise ReellamaError(f"cannot unpack {package} into {folder}: {error}") from error


def _extract(archive: tarfile.TarFile, members: list[tarfile.TarInfo], to: Path) -> None:
    """Extract with the safe filter where this Python has it (3.10.12, 3.11.4 and later)."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(to, members, filter="data")
    else:
        archive.extractall(to, [member for member in members if member.isfile()])
