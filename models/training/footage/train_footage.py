"""The phases of a stage that trains on real footage: `concepts`, then `captions`."""

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
FIRST_CLASSIFIED = 400_000_000  # number of the footage classifier's first synthetic clip


def train_footage(
    config: StageConfig,
    instruction: InstructionPhases,
    parent: Bundle | None,
    work: Path,
    *,
    read_video: ReadVideo,
    report: ReportLine,
) -> tuple[ConceptModel, dict[str, float]]:
    """Train what is left of the phases `concepts` and `captions`.

    Args:
        config: of the stage.
        instruction: the adapter, its objective, and the projector of synthetic clips.
        parent: the bundle that the stage begins with.
        work: folder for checkpoints.
        read_video: reads the frames of a video.
        report: receives lines of progress.

    Returns:
        The concept model, and the seconds of each phase.
    """
    sets, validation = load_sets(config, instruction, work, read_video, report)
    initial = parent.concepts if parent else None
    vocabulary, tokens = _initial_tokens(config, instruction, sets, initial)
    seconds = {}
    phase = ConceptPhase(
        tokens, vocabulary, sets, validation, work, seed=config.seed, report=report
    )
    if config.concepts.steps:
        if initial is None:
            phase.measure()
        seconds["concepts"] = phase.run(config.concepts)
        phase.calibrate()
    classifier = initial.classifier if initial else None
    if config.concepts.steps and config.concepts.drawn_clips:
        classifier = _classifier(config, instruction, sets, work / "footage-classifier.pt", report)
    if config.captions.steps:
        things = find_things(
            [v.captions for footage in sets for v in footage.videos], vocabulary.forms
        )
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
    """The sets of training and of validation. All stages share their feature caches."""
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
    initial: ConceptModel | None,
) -> tuple[ConceptVocabulary, ConceptTokens]:
    """Vocabulary and tokens of the concept model `initial`; or, without one, a vocabulary of the
    sets' captions, and tokens with the LLM's embeddings of its words."""
    if initial is not None:
        return initial.vocabulary, copy.deepcopy(initial.tokens).requires_grad_(True)
    phase, llm = config.concepts, instruction.llm
    vocabulary = build_vocabulary(
        [v.captions for footage in sets for v in footage.videos], phase.vocabulary
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
    """The footage classifier; it is fitted only if no earlier run has stored it in `path`."""
    channels = sets[0].cache.clip(sets[0].cache.usable[0])[0].shape[-1]
    classifier = FootageClassifier(channels)
    if distributed.rank() == 0 and not path.exists():
        real = [
            footage.cache.clip(number)[0].float().mean((0, 1))
            for footage in sets
            for number in footage.cache.usable
        ]
        drawn = _drawn_features(instruction, config.concepts.drawn_clips)
        accuracy = classifier.fit(torch.stack(real), drawn)
        report(f"footage or drawn: {accuracy:.1%} of {len(real)} and {len(drawn)} clips told apart")
        with replacing(path) as temporary:
            torch.save(classifier.state_dict(), temporary)
    distributed.barrier()
    classifier.load_state_dict(torch.load(path, weights_only=True))
    return classifier


@torch.no_grad()
def _drawn_features(instruction: InstructionPhases, count: int) -> Tensor:
    """Mean features of synthetic clips `[count, channels]`."""
    batches = clip_batches(
        instruction.clips, instruction.collator, FIRST_CLASSIFIED, FIRST_CLASSIFIED + count,
        DRAWN_BATCH, instruction.workers, shared=False,
    )  # fmt: skip
    features = [mean_features(instruction.features(b).float(), b.mask).cpu() for b in batches]
    return torch.cat(features)
