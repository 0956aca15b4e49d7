"""REELLAMA_CACHE names the folder of all that is kept."""

import os
import subprocess
import sys
from pathlib import Path

FOLDERS = """
from pathlib import Path
from reellama.gguf_tools.mtmd import tower_probe
from reellama.gguf_tools.quantization.merged_llm import MERGED_LLMS
from reellama.gguf_tools.runtime import amx_guard
from reellama.models.cache_folders import CACHE
from reellama.models.synthetic.assets.downloads import ASSETS
from reellama.pipeline.cli.commands.doctor.doctor_checks import places
from reellama.pipeline.cli.commands.gguf.compare import _cache
for path in (
    CACHE, MERGED_LLMS, ASSETS, tower_probe.folder(), amx_guard.cache_file(),
    _cache(Path("x.gguf")), next(places()).detail,
):
    print(path)
"""


def test_all_that_is_kept_is_in_the_folder_that_the_variable_names(tmp_path: Path) -> None:
    environment = os.environ | {"REELLAMA_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", FOLDERS]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == 7
    assert [line for line in lines if not line.startswith(str(tmp_path / "cache"))] == []
