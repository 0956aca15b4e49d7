"""The models that clients made by create, copy and pull: JSON manifests beside blobs, in a folder.

manifests/HOST/NAMESPACE/MODEL/TAG.json    what belongs together under a name
blobs/sha256-HEX                           files that were uploaded, named by what is in them

Names are Ollama's: "[[HOST/]NAMESPACE/]MODEL[:TAG]". Letters may be large or small in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from reellama.gguf_tools.atomic_write import write_atomically
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.sizes import show_size

# The parts that a name may leave out.
DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
# A part begins with a letter, a digit or "_", so none is "..", empty, hidden or holds a slash.
NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}", re.ASCII)
HOST = re.compile(rf"{NAME_PART.pattern}(:[0-9]{{1,5}})?", re.ASCII)
INCOMING_SECONDS = 600  # half a blob that was not added to for so long is abandoned
BLOB_SECONDS = 3600  # a blob this old that no manifest names is removed
CHUNK_BYTES = 1 << 20  # read at a time
MAX_SHOWN_CHARACTERS = 200  # of a name that an error repeats
DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")


class ModelStoreError(ReellamaError):
    """A name, digest or model of the store that cannot be used; `status` is HTTP's.

    `code` is what OpenAI's clients know an error by, if they do.
    """

    def __init__(self, message: str, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def model_not_found(name: str) -> ModelStoreError:
    """The error that there is no model of this name."""
    shown = name if len(name) <= MAX_SHOWN_CHARACTERS else f"{name[:MAX_SHOWN_CHARACTERS]}..."
    return ModelStoreError(f"model '{shown}' not found", 404, "model_not_found")


@dataclass(frozen=True)
class ModelName:
    """A model's name, whole."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Take a name apart. Raises ModelStoreError for what cannot be one."""
        path, _, tag = (
            text.rpartition(":") if ":" in text.rpartition("/")[2] else (text, "", DEFAULT_TAG)
        )
        parts = path.split("/")
        whole = [*[DEFAULT_HOST, DEFAULT_NAMESPACE][: 3 - len(parts)], *parts]
        name = cls(whole[0], whole[1], whole[2], tag) if len(whole) == 3 else None
        if name is None or not (
            HOST.fullmatch(name.host) and all(map(NAME_PART.fullmatch, name.parts[1:]))
        ):
            raise ModelStoreError(f"{text!r:.100} is an invalid model name; write it as NAME:TAG")
        return name

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """Host, namespace, model and tag."""
        return self.host, self.namespace, self.model, self.tag

    def __str__(self) -> str:
        """The name as Ollama shows it, with its tag.

        >>> str(ModelName.parse("mini")), str(ModelName.parse("hf.co/owner/Repo:Q4_0"))
        ('mini:latest', 'hf.co/owner/Repo:Q4_0')
        """
        place = [] if self.host == DEFAULT_HOST else [self.host]
        place += [] if not place and self.namespace == DEFAULT_NAMESPACE else [self.namespace]
        return "/".join([*place, f"{self.model}:{self.tag}"])


def short_name(text: str) -> str:
    """A name without what Ollama leaves out: "mini" for "library/Mini:LATEST"'s small letters.

    >>> short_name("library/mini:LATEST"), short_name("owner/mini"), short_name("not a name")
    ('mini', 'owner/mini', 'not a name')
    """
    try:
        name = ModelName.parse(text)
    except ModelStoreError:
        return text
    place = (name.host.lower(), name.namespace.lower())
    tag = "" if name.tag.lower() == DEFAULT_TAG else f":{name.tag}"
    if place == (DEFAULT_HOST, DEFAULT_NAMESPACE):
        return name.model + tag
    return text if tag else text.rpartition(":")[0] if text.lower().endswith(":latest") else text


@dataclass(frozen=True)
class Manifest:
    """What belongs together under a name.

    Attributes:
        llm: the GGUF: the digest of a blob, a path, or "" for the bundle's own.
        bundle: the bundle that sees for it, or "" for the server's.
        adapters: digests of GGUF LoRA adapters, or paths.
        template: a chat template, or "" for the GGUF's own.
        messages: of role and content; they stand before those of a request.
        modified_at: when it was written, ISO 8601.
    """

    name: str
    llm: str = ""
    bundle: str = ""
    adapters: tuple[str, ...] = ()
    template: str = ""
    system: str = ""
    license: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    messages: tuple[dict[str, str], ...] = ()
    parent: str = ""
    modified_at: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest without its name and date, in hexadecimal."""
        key_fields = {k: v for k, v in asdict(self).items() if k not in ("name", "modified_at")}
        return hashlib.sha256(json.dumps(key_fields, sort_keys=True).encode()).hexdigest()

    @property
    def is_uploaded(self) -> bool:
        """Whether the GGUF is one that a client sent."""
        return DIGEST.fullmatch(self.llm) is not None

    @property
    def blobs(self) -> set[str]:
        """Digests of the blobs that the manifest names."""
        return {each for each in (self.llm, *self.adapters) if DIGEST.fullmatch(each)}


class ModelStore:
    """The store in the folder `root`, which is made when something is first kept in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def manifests(self) -> list[Manifest]:
        """All models, the newest first; what cannot be read is passed over."""
        manifests = map(_read, (self.root / "manifests").glob("*/*/*/*.json"))
        return sorted(filter(None, manifests), key=lambda m: m.modified_at, reverse=True)

    def get(self, name: str) -> Manifest | None:
        """The model of this name, if there is one; a name that cannot be one has none."""
        try:
            return _read(self._path(ModelName.parse(name)))
        except ModelStoreError:
            return None

    def put(self, manifest: Manifest) -> Manifest:
        """Write a model under its name, in place of another one; returns it with name and date."""
        name = ModelName.parse(manifest.name)
        now = datetime.now(timezone.utc).isoformat()
        stored = Manifest(**{**vars(manifest), "name": str(name), "modified_at": now})
        replaced = self.get(str(name))
        path = self._path(name)
        self._make_folder(path.parent)
        write_atomically(path, json.dumps(asdict(stored), indent=2) + "\n")
        self._remove_unused_blobs(replaced)
        return stored

    def delete(self, name: str) -> None:
        """Forget a model, and its blobs that no other has. Raises ModelStoreError for none."""
        manifest = self.get(name)
        if manifest is None:
            raise model_not_found(name)
        self._path(ModelName.parse(name)).unlink(missing_ok=True)
        self._remove_unused_blobs(manifest)

    def file(self, reference: str) -> Path:
        """The file of a manifest's `llm` or adapter. Raises ModelStoreError where it is lost."""
        path = self.blob(reference) if DIGEST.fullmatch(reference) else Path(reference)
        if not path.is_file():
            raise ModelStoreError(
                f"{reference} is not there any more; create or pull the model again"
            )
        return path

    def blob(self, digest: str) -> Path:
        """Where a blob lies or would lie. Raises ModelStoreError for what is no digest."""
        match = DIGEST.fullmatch(digest)
        if match is None:
            raise ModelStoreError("invalid digest format; it is sha256: and 64 hexadecimal digits")
        return self.root / "blobs" / f"sha256-{match[1]}"

    @contextmanager
    def receive_blob(self, digest: str, size: int = 0) -> Iterator[IncomingBlob]:
        """A blob that is written piece by piece and kept when the block ends and the digest fits.

        `size` in bytes, where it is known, is checked against the disk's free space. Raises
        ModelStoreError.
        """
        path = self.blob(digest)
        self._make_folder(path.parent)
        if size > (free := shutil.disk_usage(path.parent).free):
            text = f"this blob has {show_size(size)}, and {path.parent} has {show_size(free)} free"
            raise ModelStoreError(f"{text}; make room", 507)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".incoming-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                blob = IncomingBlob(file)
                yield blob
                file.flush()
                os.fsync(file.fileno())
            if blob.digest != f"sha256:{path.name.removeprefix('sha256-')}":
                raise ModelStoreError(f"digest mismatch, expected {digest}, got {blob.digest}")
            os.replace(name, path)
        except OSError as error:
            raise ModelStoreError(
                f"cannot save a blob in {path.parent}: {error.strerror}", 507
            ) from error
        finally:
            Path(name).unlink(missing_ok=True)

    def adopt_as_blob(self, path: Path) -> str:
        """Make a file of the store's file system a blob, which moves it; returns its digest."""
        sha256 = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                sha256.update(piece)
        digest = f"sha256:{sha256.hexdigest()}"
        target = self.blob(digest)
        self._make_folder(target.parent)
        os.replace(path, target)
        return digest

    def sweep(self) -> None:
        """Remove what a server that was killed left: half a blob, and blobs that no model has.

        What is young may be on its way in, through another server too.
        """
        now = time.time()
        for path in (*self.root.glob("blobs/.incoming-*"), *self.root.glob(".quantizing-*")):
            with suppress(OSError):
                if now - path.stat().st_mtime > INCOMING_SECONDS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        paths = list((self.root / "manifests").glob("*/*/*/*.json"))
        manifests = [_read(path) for path in paths]
        if None in manifests:  # which blobs a broken manifest names is not known
            return
        used = {self.blob(digest) for each in manifests if each for digest in each.blobs}
        for path in self.root.glob("blobs/sha256-*"):
            with suppress(OSError):
                if path not in used and now - path.stat().st_mtime > BLOB_SECONDS:
                    path.unlink()

    def _path(self, name: ModelName) -> Path:
        # Small letters, so that names that differ in that only are one on every file system.
        host, namespace, model, tag = (part.lower().replace(":", "%3a") for part in name.parts)
        return self.root / "manifests" / host / namespace / model / f"{tag}.json"

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelStoreError(
                f"cannot keep models in {self.root}: {error.strerror}", 500
            ) from error

    def _remove_unused_blobs(self, manifest: Manifest | None) -> None:
        """Remove the blobs of a manifest that is gone and that no other one has."""
        if manifest is None:
            return
        used = set().union(*(each.blobs for each in self.manifests()))
        for digest in manifest.blobs - used:
            self.blob(digest).unlink(missing_ok=True)


class IncomingBlob:
    """A blob on its way in."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def write(self, piece: bytes) -> None:
        """Add a piece."""
        self._sha256.update(piece)
        self._file.write(piece)

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes received so far."""
        return f"sha256:{self._sha256.hexdigest()}"


def _read(path: Path) -> Manifest | None:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(fields[name]) for name in ("adapters", "license", "messages")}
        return Manifest(**{**fields, **lists})
    except (OSError, ValueError, TypeError, KeyError):
        return None
