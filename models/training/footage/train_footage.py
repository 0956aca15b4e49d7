"""What a stage with `[footage]` trains beyond the others: concepts, then captions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from reellama import prompts
from reellama.gguf_tools.atomic_write import replacing
from reellama.models.bundle import Bundle
from reellama.models.concepts.caption_things import find_things
from reellama.models.concepts.concept_config import ConceptConfig
from reellama.models.concepts.concept_model import ConceptModel
from reellama.models.concepts.concept_tokens import ConceptTokens
from reellama.models.concepts.footage_classifier import FootageClassifier, mean_features
from reellama.models.concepts.vocabulary import ConceptVocabulary, build_vocabulary
from reellama.models.training import distributed
from reellama.models.training.batches import clip_batches
from reellama.models.training.captions.clip_sources import ReadVideo
from reellama.models.training.config import StageConfig
from reellama.models.training.footage.caption_phase import CaptionPhase
from reellama.models.training.footage.captioned_videos import FootageSet, load_footage_set
from reellama.models.training.footage.concept_phase import ConceptPhase
from reellama.models.training.phases.instruction import InstructionPhases

ReportLine = Callable[[str], None]
DRAWN_BATCH = 8  # clips
FIRST_CLASSIFIED = 400_000_000  # number of the first synthetic clip that the classifier learns from


def train_footage(
    config: StageConfig,
    instruction: InstructionPhases,
    parent: Bundle | None,
    work: Path,
    *,
    read_video: ReadVideo,
    report: ReportLine,
) -> tuple[ConceptModel, dict[str, float]]:
    """Train what is left of `concepts` and `captions`; also returns the seconds of both."""
    sets, validation = load_sets(config, instruction, work, read_video, report)
    known = parent.concepts if parent else None
    vocabulary, tokens = _initial_tokens(config, instruction, sets, known)
    seconds = {}
    phase = ConceptPhase(
        tokens, vocabulary, sets, validation, work, seed=config.seed, report=report
    )
    if config.concepts.steps:
        if known is None:
            phase.measure()
        seconds["concepts"] = phase.run(config.concepts)
        phase.calibrate()
    classifier = known.classifier if known else None
    if config.concepts.steps and config.concepts.drawn_clips:
        classifier = _classifier(config, instruction, sets, work / "footage-classifier.pt", report)
    if config.captions.steps:
        things = find_things([v.captions for one in sets for v in one.videos], vocabulary.forms)
        labels = parent.labels if parent else None
        captions = CaptionPhase(
            tokens, vocabulary, things, sets, validation, instruction, labels,
            prompts.load("describe"),
        )  # fmt: skip
        seconds["captions"] = captions.run(config.captions, work, config.seed, report)
    return ConceptModel(vocabulary, tokens.eval(), classifier), seconds


def load_sets(
    config: StageConfig,
    instruction: InstructionPhases,
    work: Path,
    read_video: ReadVideo,
    report: ReportLine,
) -> tuple[list[FootageSet], list[FootageSet]]:
    """The sets of training and of validation, with features that all stages share."""
    footage = config.footage

    def load(names: Sequence[str], shares: Sequence[float]) -> list[FootageSet]:
        return [
            load_footage_set(
                path,
                instruction.tower,
                work.parent / "features",
                read_video=read_video,
                frames=footage.frames,
                share=share,
                report=report,
            )
            for path, share in zip(footage.paths(names), shares, strict=True)
        ]

    train = load(footage.train, footage.shares)
    return train, load(footage.validation, [0.0] * len(footage.validation))


def _initial_tokens(
    config: StageConfig,
    instruction: InstructionPhases,
    sets: Sequence[FootageSet],
    known: ConceptModel | None,
) -> tuple[ConceptVocabulary, ConceptTokens]:
    """The vocabulary and tokens of the bundle that the stage begins with, or new ones, whose words
    are the LLM's."""
    if known is not None:
        return known.vocabulary, copy.deepcopy(known.tokens).requires_grad_(True)
    phase, llm = config.concepts, instruction.llm
    vocabulary = build_vocabulary(
        [v.captions for one in sets for v in one.videos], phase.vocabulary
    )
    _, cells, channels = sets[0].cache.clip(sets[0].cache.usable[0])[0].shape
    torch.manual_seed(config.seed)
    tokens = ConceptTokens(
        ConceptConfig(
            concepts=len(vocabulary), channels=channels, cells=cells, n_embd=llm.n_embd,
            named=min(phase.named, len(vocabulary)), free=phase.free, width=phase.width,
            dropout=phase.dropout,
        )
    )  # fmt: skip
    words = [
        llm.embed(llm.tokenizer.encode(f" {word}")).float().mean(0) for word in vocabulary.words
    ]
    tokens.init_words(torch.stack(words))
    return vocabulary, tokens.to(instruction.device)


def _classifier(
    config: StageConfig,
    instruction: InstructionPhases,
    sets: Sequence[FootageSet],
    path: Path,
    report: ReportLine,
) -> FootageClassifier:
    """The classifier of footage and drawn clips; kept in `path` for a later run."""
    channels = sets[0].cache.clip(sets[0].cache.usable[0])[0].shape[-1]
    classifier = FootageClassifier(channels)
    if distributed.rank() == 0 and not path.exists():
        footage = [
            one.cache.clip(number)[0].float().mean((0, 1))
            for one in sets
            for number in one.cache.usable
        ]
        drawn = _drawn_features(instruction, config.concepts.drawn_clips)
        right = classifier.fit(torch.stack(footage), drawn)
        report(f"footage or drawn: {right:.1%} of {len(footage)} and {len(drawn)} clips told apart")
        with replacing(path) as temporary:
            torch.save(classifier.state_dict(), temporary)
    distributed.barrier()
    classifier.load_state_dict(torch.load(path, weights_only=True))
    return classifier


@torch.no_grad()
def _drawn_features(instruction: InstructionPhases, count: int) -> Tensor:
    """Mean features of synthetic clips `[count, channels]`."""
    found = []
    batches = clip_batches(
        instruction.clips, instruction.collator, FIRST_CLASSIFIED, FIRST_CLASSIFIED + count,
        DRAWN_BATCH, instruction.workers, shared=False,
    )  # fmt: skip
    for batch in batches:
        found.append(mean_features(instruction.features(batch).float(), batch.mask).cpu())
    return torch.cat(found)
