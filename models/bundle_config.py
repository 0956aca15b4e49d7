"""`bundle.json`: which tower, LLM and prompts belong together, and what trained them."""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from reellama.gguf_tools.atomic_write import stamp
from reellama.gguf_tools.errors import ReellamaError
from reellama.models.concepts.concept_config import ConceptConfig
from reellama.models.older_bundles import updated_keys
from reellama.models.projector.config import ProjectorConfig

FORMAT = 1
BUNDLES = Path(__file__).parent / "bundles"
SCORES = "scores.json"


class BundleError(ReellamaError):
    """A bundle that is missing, broken, or made for another LLM."""


@dataclass(frozen=True)
class TowerSpec:
    """Arguments of `Tower.load`; a relative folder is one inside the bundle."""

    name: str = "tower"
    pretrained: str | None = None
    layer: int = -1
    fine_layers: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TowerSpec:
        """The `tower` object of `bundle.json`, where `fine_layers` is called "finer"."""
        return cls(**{"fine_layers" if key == "finer" else key: v for key, v in data.items()})

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads. The fingerprints of graphs contain it, so its keys stay."""
        return {"finer" if key == "fine_layers" else key: v for key, v in vars(self).items()}


@dataclass(frozen=True)
class BundleConfig:
    """The contents of `bundle.json`.

    Attributes:
        llm: a name for `reellama.gguf_tools.locate.find.resolve`, or a path.
        frames: how many frames of a video are sampled by default.
        lora: GGUF adapters inside the bundle, with their scales.
        concepts: sizes of the concept model, which makes the soft tokens of real footage; None in
            a bundle without one.
        slots: whether the soft tokens were trained to fill the slots of
            `reellama.models.projector.slots`.
        inverse_temperature: factor on the logits of the words, chosen after training. The weights
            contain it already.
        word_ids: the LLM's token id that each row of the word mixture was initialized with; None
            in older bundles.
        languages: ISO 639-1 codes of the languages of the training questions, such as "de"; None
            where they are unknown.
        stages: the training stages in order, each with its `config` and `seconds`.
        scores: results of evaluations, in older bundles; others have them in `scores.json`.
    """

    name: str
    llm: str
    projector: ProjectorConfig
    tower: TowerSpec = TowerSpec()
    frames: int = 8
    system: str = ""
    describe: str = "Describe the video."
    lora: tuple[tuple[str, float], ...] = ()
    concepts: ConceptConfig | None = None
    slots: bool = False
    inverse_temperature: float = 1.0
    word_ids: tuple[int, ...] | None = None
    languages: tuple[str, ...] | None = None
    stages: tuple[Mapping[str, Any], ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.word_ids is not None and len(self.word_ids) != self.projector.words:
            raise BundleError(
                f"{len(self.word_ids)} word_ids for {self.projector.words} rows of the projector"
            )

    @property
    def known_languages(self) -> tuple[str, ...]:
        """`languages`, or English for a bundle with slots: the captions of drawn clips are
        English."""
        return self.languages or (("en",) if self.slots else ())

    @property
    def footage_limits(self) -> str:
        """What a bundle that also learned from drawn clips cannot tell about real footage."""
        return (
            f"real footage: {self.name} names what it sees, often wrongly, and cannot tell motion, "
            "camera, numbers or text"
        )

    @property
    def footage_caveat(self) -> str:
        """A caveat for users about answers on real footage, with a remedy."""
        return f"{self.footage_limits}; a vision model tells more: --bundle MODEL.gguf"

    @classmethod
    def read(cls, path: Path) -> BundleConfig:
        """Read and check a `bundle.json`. Raises BundleError."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise BundleError(f"{path}: a bundle of another format; update reellama")
            data = updated_keys(data)
            data["projector"] = ProjectorConfig(**data["projector"])
            data["tower"] = TowerSpec.from_json(data["tower"])
            if "concepts" in data:
                data["concepts"] = ConceptConfig(**data["concepts"])
            data["lora"] = tuple((str(name), float(scale)) for name, scale in data["lora"])
            if "languages" in data:
                data["languages"] = tuple(str(code) for code in data["languages"])
            data["stages"] = tuple(data.get("stages", ()))
            if "word_ids" in data:
                data["word_ids"] = tuple(int(token) for token in data["word_ids"])
            return cls(**data)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError(f"{path}: not a bundle's description: {error}") from error

    def to_json(self) -> str:
        """The text of `bundle.json`."""
        data: dict[str, Any] = {"format": FORMAT}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is None or (entry.name == "scores" and not value):
                continue
            if isinstance(value, TowerSpec):
                value = value.to_json()
            data[entry.name] = vars(value) if hasattr(value, "__dataclass_fields__") else value
        text = json.dumps(data, indent=2)
        return re.sub(r"\[\n(?:\s+[-\d]\S*\n)+\s*\]", _fill_lines, text) + "\n"


def _fill_lines(array: re.Match[str]) -> str:
    """A JSON array with one number a line -> the same array in lines of up to 100 characters."""
    numbers = " ".join(array[0].split()).replace("[ ", "[").replace(" ]", "]")
    return textwrap.fill(numbers, 100, subsequent_indent=" " * 4)


def find_bundle(name_or_path: str | Path) -> Path:
    """The folder of a bundle, by a shipped bundle's name or a path; raises BundleError."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = BUNDLES / str(name_or_path)
    if not (folder / "bundle.json").is_file():
        shipped = sorted(path.parent.name for path in BUNDLES.glob("*/bundle.json"))
        raise BundleError(
            f"{name_or_path}: no bundle.json there; name a bundle's folder"
            + (f", or one of {', '.join(shipped)}" if shipped else "")
        )
    return folder


def version_of(folder: Path) -> str:
    """SHA-256, in hexadecimal, of the names, sizes and dates of a bundle's files, except its
    scores."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SCORES)
    entries = [[path.relative_to(folder).as_posix(), *stamp(path)] for path in files]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
