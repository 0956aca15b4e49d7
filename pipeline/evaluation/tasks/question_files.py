"""Questions from files: a JSONL of one's own, or MVBench's folder as it is downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.user_paths import expand_user
from reellama.pipeline.evaluation.items import EvalItem, _part

# Where MVBench keeps the videos of a task: files of the same name lie in several folders.
MVBENCH_FOLDERS = {
    "action_antonym": "ssv2_video",
    "action_count": "perception/videos",
    "action_localization": "sta/sta_video",
    "action_prediction": "star/Charades_v1_480",
    "action_sequence": "star/Charades_v1_480",
    "character_order": "perception/videos",
    "counterfactual_inference": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd",
    "moving_attribute": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation",
    "moving_direction": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "scene_transition": "scene_qa/video",
    "state_change": "perception/videos",
    "unexpected_action": "FunQA_test/test",
}
# Pictures a second of those MVBench videos that are folders of pictures; we read a folder as one a
# second.
MVBENCH_PICTURES = 3


@dataclass(frozen=True)
class QuestionSet:
    """Questions, those of one video next to each other, and the names of videos not found."""

    items: list[EvalItem]
    missing: tuple[str, ...] = ()


def load_questions(path: Path) -> QuestionSet:
    """Read a JSONL file, or MVBench's folder (the one with `json` in it, or `json` itself).

    Raises ReellamaError that names the file and the line when something in it is wrong.
    """
    path = expand_user(path)
    if not path.is_dir():
        return QuestionSet(_together(_jsonl(path)))
    folder = path / "json" if (path / "json").is_dir() else path
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ReellamaError(
            f"{path}: no questions there; give a JSONL file, or MVBench's folder with `json` in it"
        )
    videos = _Videos(folder.parent)
    items: list[EvalItem] = []
    missing: list[str] = []
    for file in files:
        for item in _mvbench(file):
            found = videos.find(file.stem, str(item.video))
            if found is None:
                missing.append(f"{file.stem}: {item.video}")
            else:
                items.append(_at(item, found))
    if not items:
        raise ReellamaError(f"{path}: none of its {len(missing)} videos lie in {folder.parent}")
    return QuestionSet(_together(items), tuple(dict.fromkeys(missing)))


def _together(items: Iterator[EvalItem] | list[EvalItem]) -> list[EvalItem]:
    """The items, sorted so that those of one video are together, by their first questions."""
    groups: dict[Any, list[EvalItem]] = {}
    for item in items:
        groups.setdefault(_part(item), []).append(item)
    return [item for group in groups.values() for item in group]


def _jsonl(path: Path) -> Iterator[EvalItem]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ReellamaError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ReellamaError(f"{path}: not UTF-8 text; save it as UTF-8") from error
    if not any(map(str.strip, lines)):
        raise ReellamaError(f"{path}: there is no question in it")
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _row(json.loads(line), path.parent)
            except ValueError as error:  # of JSON, and our own below
                raise ReellamaError(f"{path}, line {number}: {error}") from error


def _row(row: Any, folder: Path) -> EvalItem:
    """The question of one line; ValueError says what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    task = _text(row, "task", "")
    video = folder / expand_user(Path(_text(row, "video")))
    if not video.exists():
        raise ValueError(f"there is no {video}")
    part = (_seconds(row, "start"), _seconds(row, "end"))
    if "caption" in row:
        told = row["caption"]
        references = [told] if isinstance(told, str) else told
        if not _texts(references):
            raise ValueError("`caption` must be a text or a list of texts")
        question = _text(row, "question", "")
        return EvalItem(task or "caption", question, "", (), video, *part, tuple(references))
    choices = row.get("choices", [])
    if choices and not _texts(choices):
        raise ValueError("`choices` must be a list of texts")
    item = EvalItem(
        task, _text(row, "question"), _text(row, "answer"), tuple(choices), video, *part
    )
    return _checked(replace(item, task=task or ("choice" if choices else "open")))


def _checked(item: EvalItem) -> EvalItem:
    if item.choices:
        if len(set(item.choices)) < max(2, len(item.choices)):
            raise ValueError("`choices` must be two or more, and all different")
        if item.answer not in item.choices:
            raise ValueError(f"the answer {item.answer!r} is not among the choices")
    return item


def _text(row: dict[str, Any], key: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise ValueError(f"`{key}` must be a text" + ("" if key in row else ", and is missing"))
    return value


def _texts(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(value, str) and value.strip() for value in values)
    )


def _seconds(row: dict[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"`{key}` must be seconds")
    return None if value is None else float(value)


def _mvbench(path: Path) -> Iterator[EvalItem]:
    """The questions of one task; `video` is still the name that the file gives."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReellamaError(f"cannot read {path}: {error}") from error
    if not isinstance(rows, list):
        raise ReellamaError(f"{path}: not a list of questions, as MVBench's files are")
    for number, row in enumerate(rows, 1):
        try:
            if not isinstance(row, dict) or not _texts(row.get("candidates")):
                raise ValueError("not a question with `candidates`")
            yield _checked(
                EvalItem(
                    path.stem.replace("_", " "),
                    _text(row, "question"),
                    _text(row, "answer"),
                    tuple(dict.fromkeys(row["candidates"])),
                    Path(_text(row, "video")),
                    _seconds(row, "start"),
                    _seconds(row, "end"),
                )
            )
        except ValueError as error:
            raise ReellamaError(f"{path}, entry {number}: {error}") from error


class _Videos:
    """Finds MVBench's videos below `root`, wherever its archives were unpacked."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, task: str, name: str) -> Path | None:
        """The video of a task: in the task's own folder, or the only one of that name."""
        places = [self.root / "video", self.root / "videos", self.root]
        folders = [place / MVBENCH_FOLDERS.get(task, task) for place in places]
        for folder in folders:
            if (folder / name).exists():
                return folder / name
        inside = [path for folder in folders for path in folder.rglob(Path(name).name)]
        found = inside or self._everywhere().get(Path(name).name, [])
        return found[0] if len(found) == 1 else None

    def _everywhere(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            for path in self.root.rglob("*"):
                self._by_name.setdefault(path.name, []).append(path)
        return self._by_name


def _at(item: EvalItem, video: Path) -> EvalItem:
    rate = MVBENCH_PICTURES if video.is_dir() else 1
    start, end = (None if t is None else t * rate for t in (item.start, item.end))
    return replace(item, video=video, start=start, end=end)
