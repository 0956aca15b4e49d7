"""Train one stage of a config: its phases in order, and the bundle that they make.

`reellama.models.training.train_stages` runs the stages of a config one after the other.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from reellama import prompts
from reellama.gguf_tools.errors import ReellamaError
from reellama.gguf_tools.format.reader import read_gguf
from reellama.gguf_tools.locate import find
from reellama.models.bundle import LABELS, Bundle
from reellama.models.bundle_config import BundleConfig, TowerSpec
from reellama.models.concepts.concept_model import ConceptModel
from reellama.models.precision import compute_dtype
from reellama.models.projector.temporal_projector import Projector
from reellama.models.save_bundle import save_bundle
from reellama.models.synthetic.dataset import SyntheticClips, load_picture_pools
from reellama.models.synthetic.slot_targets import logit_biases
from reellama.models.training import distributed
from reellama.models.training.captions.clip_sources import ReadVideo
from reellama.models.training.collate import ConversationCollator, slot_vocabulary
from reellama.models.training.config import StageConfig
from reellama.models.training.footage.train_footage import train_footage
from reellama.models.training.frozen_llm import FrozenLLM
from reellama.models.training.initial_projector import initial_projector
from reellama.models.training.phases.alignment import device
from reellama.models.training.phases.instruction import InstructionPhases
from reellama.models.training.phases.tower import TowerPhase
from reellama.models.vision.encoder import Tower, grid_layers
from reellama.models.vision.imagenet_labels import ImageNetClassifier, name_ids

ADAPTER = "adapter.gguf"


def train_stage(
    config: StageConfig,
    out: Path,
    *,
    work: Path,
    assets: Path,
    report: Callable[[str], None],
    bundles: Mapping[str, Path] = MappingProxyType({}),
    read_video: ReadVideo | None = None,
) -> Bundle:
    """Train what is left of the phases, from `tower` to `captions`, and write the bundle.

    All processes of `distributed` call this, and share the steps.

    Args:
        config: of the stage.
        out: folder for the bundle.
        work: folder for checkpoints, logs and the tower.
        assets: the download folder of picture sets.
        report: receives lines of progress.
        bundles: the folders of earlier stages, by name, for `init_from` and `average_with`.
        read_video: reads footage, for the phases `concepts` and `captions`.

    Raises:
        ReellamaError: the stage neither trains a tower nor names one that can be loaded, or a batch
            cannot be shared by the processes.
    """
    distributed.init_processes()
    _check_batches(config)
    # Only rank 0 reports. It also downloads and draws the pictures, before the others need them.
    if distributed.rank():
        report = _report_nothing
    else:
        load_picture_pools(config.synthetic.styles, assets, "known", True)
    distributed.barrier()
    seconds: dict[str, float] = {}
    parent = _load(config.init_from, bundles)
    spec = _chosen_tower(config, parent)
    if not spec.name:
        spec = replace(spec, name=str(work / "tower"))
        seconds["tower"] = _train_tower(config, Path(spec.name), work, assets, report)
    training, first_weights = _set_up_phases(config, spec, parent, work, assets, report, bundles)
    seconds |= _train_on_clips(config, training, first_weights)
    concepts = parent.concepts if parent else None
    if config.footage.train and read_video is not None:
        concepts, footage_seconds = train_footage(
            config, training, parent, work, read_video=read_video, report=report
        )
        seconds |= footage_seconds
    if distributed.rank() == 0:
        _save(config, out, spec, training, parent, seconds, concepts)
    distributed.barrier()
    distributed.shut_down()
    return Bundle.load(out)


def _set_up_phases(
    config: StageConfig,
    spec: TowerSpec,
    parent: Bundle | None,
    work: Path,
    assets: Path,
    report: Callable[[str], None],
    bundles: Mapping[str, Path],
) -> tuple[InstructionPhases, dict[str, Tensor]]:
    """The phases on synthetic clips, with the weights of `parent` or new ones; and the weights of a
    projector to average with after `align`."""
    tower = Tower.load(
        spec.name, pretrained=spec.pretrained, layer=spec.layer, fine_layers=spec.fine_layers
    )
    llm = _load_llm(config.llm)
    clips, validation = (
        SyntheticClips(config.synthetic, tower.size, assets, split=split)
        for split in ("train", "validation")
    )
    first_weights: dict[str, Tensor] = {}
    if parent:
        projector = _without_calibration(parent).train().requires_grad_(True)
        averaged = _load(config.average_with, bundles)
        first_weights = _copy_weights(_without_calibration(averaged) if averaged else projector)
        words = parent.word_ids
    else:
        words = slot_vocabulary(clips, llm.tokenizer, config.projector.words)
        projector = _new_projector(config, tower, llm, words)
    collator = ConversationCollator(
        llm.tokenizer,
        llm.template,
        prompts.load("system"),
        tokens=projector.config.tokens,
        words=words,
        separate_turns=config.lora.separate_turns,
    )
    training = InstructionPhases(
        clips, validation, tower, llm, collator, projector, config.lora, work,
        seed=config.seed, report=report,
    )  # fmt: skip
    for path, _ in parent.lora if parent else ():
        training.lora.load(path, read_gguf(find.resolve(config.llm)))
    return training, first_weights


def _train_on_clips(
    config: StageConfig, training: InstructionPhases, first_weights: Mapping[str, Tensor]
) -> dict[str, float]:
    """Train `align`, average and calibrate the projector, train `text_only` and `joint`, average
    the adapter; returns the seconds of each phase."""
    projector, first_adapter = training.projector, _copy_weights(training.lora)
    seconds = {"align": training.align(config.align)}
    _average_weights(config.weight_average, projector, first_weights)
    _add_logit_biases(config, projector, training.collator.words, training.llm.tokenizer.encode)
    # Calibrate before the adapter is trained, so that it learns from the final soft tokens.
    _scale_logits(config.inverse_temperature, projector)
    seconds["text_only"] = training.text_only(config.text_only)
    seconds["joint"] = training.joint(config.joint)
    _average_weights(config.lora_weight_average, training.lora, first_adapter)
    return seconds


def _check_batches(config: StageConfig) -> None:
    """Raise ReellamaError for a batch that the processes cannot share, before training begins."""
    for phase in config.phases().values():
        for size in phase.sizes:
            distributed.local_batch_size(size)


def _load(name: str, bundles: Mapping[str, Path]) -> Bundle | None:
    """The bundle of an earlier stage, or any bundle by name or folder; None for no name."""
    return Bundle.load(bundles.get(name, name)) if name else None


def _load_llm(name: str) -> FrozenLLM:
    """The LLM, in the dtype and with the attention that are fastest to train on this device."""
    on_gpu = device().type == "cuda"
    return FrozenLLM(
        find.resolve(name),
        dtype=compute_dtype(device()),
        attention="sdpa" if on_gpu else "eager",
    )


def _copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the module's weights."""
    return {name: weight.clone() for name, weight in module.state_dict().items()}


@torch.no_grad()
def _average_weights(share: float, module: nn.Module, first: Mapping[str, Tensor]) -> None:
    """Replace the weights of a module by (1 - share) of themselves plus share of `first`."""
    for name, weight in module.state_dict().items():
        if share and name in first:
            weight.lerp_(first[name].to(weight.device), share)


def _without_calibration(bundle: Bundle) -> Projector:
    """The bundle's projector with the scale and bias of its logits undone."""
    _scale_logits(1 / bundle.config.inverse_temperature, bundle.projector)
    bundle.projector.word_mixture.logit_bias.zero_()
    return bundle.projector


@torch.no_grad()
def _scale_logits(inverse_temperature: float, projector: Projector) -> None:
    """Multiply the logits of the words."""
    words = projector.word_mixture
    for weight in (*words.score.parameters(), words.logit_bias):
        weight.mul_(inverse_temperature)


@torch.no_grad()
def _add_logit_biases(
    config: StageConfig,
    projector: Projector,
    words: Sequence[int],
    encode: Callable[[str], Sequence[int]],
) -> None:
    """Add the config's logit biases towards vague answers. words: token ids of the projector."""
    for token, word, bias in logit_biases(config.name_logit_bias, config.camera_logit_bias):
        word_id = encode(f" {word}")[0]
        if bias and word_id not in words:
            raise ReellamaError(f'a logit bias needs "{word}" among the projector\'s words')
        if bias:
            projector.word_mixture.logit_bias[token, words.index(word_id)] += bias


def _report_nothing(line: str) -> None:
    pass


def _train_tower(
    config: StageConfig,
    out: Path,
    work: Path,
    assets: Path,
    report: Callable[[str], None],
) -> float:
    """Train the steps of the tower that are left; returns seconds."""
    if not config.tower.steps:
        raise ReellamaError(
            f"stage {config.stage}: give it [stages.tower] steps, or init_from, or [vision_tower] "
            "name: a folder, or a CLIP's name"
        )
    stills, validation = (
        SyntheticClips(
            config.synthetic, config.contrastive.image_size, assets, split=split, stills=True
        )
        for split in ("train", "validation")
    )
    phase = TowerPhase(
        stills, validation, config.contrastive, work,
        layers=grid_layers(config.vision_tower.layer, config.vision_tower.fine_layers),
        device=device(), seed=config.seed, report=report,
    )  # fmt: skip
    seconds = phase.run(config.tower, out)
    distributed.barrier()
    return seconds


def _chosen_tower(config: StageConfig, parent: Bundle | None) -> TowerSpec:
    """The config's tower, or that of `parent`. A spec without a name means a new tower."""
    if config.vision_tower.name or not parent:
        return config.vision_tower.spec()
    folder = parent.folder / parent.config.tower.name
    tower = parent.config.tower
    return replace(tower, name=str(folder)) if folder.is_dir() else tower


def _new_projector(
    config: StageConfig, tower: Tower, llm: FrozenLLM, word_ids: Sequence[int]
) -> Projector:
    pixels = torch.zeros(1, 3, tower.size, tower.size, dtype=torch.uint8)
    _, cells, channels = tower.cells(pixels.to(tower.device)).shape
    return initial_projector(config.projector, llm, word_ids, cells, channels, config.seed)


def _save(
    config: StageConfig,
    out: Path,
    tower: TowerSpec,
    training: InstructionPhases,
    parent: Bundle | None,
    seconds: Mapping[str, float],
    concepts: ConceptModel | None,
) -> Bundle:
    """Write the bundle. tower: a name for open_clip, or a folder, which is copied."""
    llm, source = training.llm, Path(tower.name)
    stage = {
        "stage": config.stage,
        "init_from": config.init_from,
        "config": json.loads(json.dumps(config.to_json())),
        "seconds": {name: round(value) for name, value in seconds.items()},
    }
    description = BundleConfig(
        name=config.name,
        llm=config.llm,
        projector=training.projector.config,
        tower=replace(tower, name="tower") if source.is_dir() else tower,
        frames=config.synthetic.frames,
        system=training.collator.system,
        describe=prompts.load("describe"),
        lora=((ADAPTER, 1.0),),
        concepts=concepts.tokens.config if concepts else None,
        slots=bool(config.align.steps or (parent and parent.config.slots)),
        inverse_temperature=config.inverse_temperature,
        word_ids=tuple(training.collator.words),
        stages=(*(parent.config.stages if parent else ()), stage),
    )
    out.mkdir(parents=True, exist_ok=True)
    training.lora.save(out / ADAPTER, read_gguf(find.resolve(config.llm)))
    if config.imagenet_labels:
        encode = llm.tokenizer.encode
        ids = name_ids(encode, encode("\n")[0])
        labels = ImageNetClassifier.of_imagenet(ids, lambda token: llm.embed(token).float().cpu())
        labels.save(out / LABELS)
    if source.is_dir() and source.resolve() != (out / "tower").resolve():
        shutil.copytree(source, out / "tower", dirs_exist_ok=True)
    return save_bundle(out, description, training.projector, concepts)
