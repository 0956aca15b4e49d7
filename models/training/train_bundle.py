"""Train a bundle on drawn stories: projector and adapter, over a tower of its own or another's.

`reellama train` does this for a recipe with the tables `[see]`, `[study]` and `[tell]`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prompts
from gguf_tools.errors import ReellamaError
from gguf_tools.format.reader import read_gguf
from gguf_tools.locate import find
from models.bundle import Bundle, BundleConfig, TowerSpec, save_bundle
from models.precision import compute_dtype
from models.projector.config import ProjectorConfig
from models.projector.temporal_projector import Projector
from models.synthetic.dataset import SyntheticClips, load_picture_pools
from models.synthetic.slot_targets import logit_biases
from models.training import distributed
from models.training.collate import ConversationCollator, slot_vocabulary
from models.training.config import StoryRecipe
from models.training.frozen_llm import FrozenLLM
from models.training.stages.instruction import InstructionStages, device
from models.training.stages.tower import TowerStage
from models.vision.encoder import Tower, grid_layers
from models.vision.imagenet_labels import ImageNetClassifier, name_ids

ADAPTER = "adapter.gguf"


def train_bundle(
    recipe: StoryRecipe, out: Path, *, work: Path, material: Path, report: Callable[[str], None]
) -> Bundle:
    """Do what is left of the stages, from `look` to `tell`, and write the bundle into `out`.

    The processes that `parallel` brings together share the steps.

    Raises ReellamaError when the recipe neither trains a tower nor names one that can be loaded.
    """
    distributed.init_processes()
    for stage in (recipe.look, recipe.see, recipe.study, recipe.tell):
        for size in stage.sizes if stage.steps else ():
            distributed.local_batch_size(
                size
            )  # or the last stage would say after hours that it cannot be
    if distributed.rank():  # one process speaks for all
        report = _say_nothing
    else:  # and downloads and draws the pictures, where two would get in each other's way
        load_picture_pools(recipe.stories.styles, material, "known", True)
    distributed.barrier()
    seconds: dict[str, float] = {}
    begun = Bundle.load(recipe.start) if recipe.start else None
    chosen = _chosen_tower(recipe, begun)
    if not chosen.name:
        chosen = replace(chosen, name=str(work / "tower"))
        seconds["look"] = _train_tower(recipe, Path(chosen.name), work, material, report)
    tower = Tower.load(
        chosen.name, pretrained=chosen.pretrained, layer=chosen.layer, finer=chosen.finer
    )
    on_gpu = device().type == "cuda"
    llm = FrozenLLM(
        find.resolve(recipe.llm),
        dtype=compute_dtype(device()),
        attention="sdpa" if on_gpu else "eager",
    )
    stories = SyntheticClips(recipe.stories, tower.size, material)
    validation = SyntheticClips(recipe.stories, tower.size, material, split="validation")
    first: dict[str, Tensor] = {}
    if begun:
        projector = _without_calibration(begun).train().requires_grad_(True)
        kept = _without_calibration(Bundle.load(recipe.kept_of)) if recipe.kept_of else projector
        first = _copy_weights(kept)
        words = _nearest_tokens(projector, llm)
    else:
        words = slot_vocabulary(stories, llm.tokenizer, recipe.projector.words)
        projector = _projector(recipe, tower, llm, words)
    teacher = ConversationCollator(
        llm.tokenizer,
        llm.template,
        prompts.load("system"),
        tokens=projector.config.tokens,
        words=words,
        apart=recipe.adapter.apart,
    )
    training = InstructionStages(
        stories, validation, tower, llm, teacher, projector, recipe.adapter, work,
        seed=recipe.seed, report=report,
    )  # fmt: skip
    if begun:
        for path, _ in begun.lora:
            training.lora.load(path, read_gguf(find.resolve(recipe.llm)))
    first_adapter = _copy_weights(training.lora)
    seconds["see"] = training.see(recipe.see)
    _average_weights(recipe.kept, projector, first)
    _add_logit_biases(recipe, projector, words, llm.tokenizer.encode)
    _scale_logits(
        recipe.sharpness, projector
    )  # what the adapter learns to read is what it will get
    seconds["study"] = training.study(recipe.study)
    seconds["tell"] = training.tell(recipe.tell)
    _average_weights(recipe.kept_adapter, training.lora, first_adapter)
    if distributed.rank() == 0:
        made = {
            "recipe": json.loads(json.dumps(recipe.to_json())),
            "seconds": {name: round(spent) for name, spent in seconds.items()},
            **({"before": begun.config.training} if begun else {}),
        }
        _save(recipe, out, chosen, training, made)
    distributed.barrier()
    distributed.shut_down()
    return Bundle.load(out)


def _copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Its weights as they are now."""
    return {name: weight.clone() for name, weight in module.state_dict().items()}


@torch.no_grad()
def _average_weights(share: float, module: nn.Module, first: Mapping[str, Tensor]) -> None:
    """Mix what a module has become with a share of the weights that it began with."""
    for name, weight in module.state_dict().items():
        if share and name in first:
            weight.lerp_(first[name].to(weight.device), share)


def _without_calibration(bundle: Bundle) -> Projector:
    """Its projector as training left it, before it was sharpened and made to doubt."""
    recipe = bundle.config.training.get("recipe", {})
    _scale_logits(1 / recipe.get("sharpness", 1.0), bundle.projector)
    bundle.projector.words.prior.zero_()
    return bundle.projector


@torch.no_grad()
def _scale_logits(sharpness: float, projector: Projector) -> None:
    """Give the likelier words of each soft token more weight, or with less than 1, the others."""
    words = projector.words
    for weight in (*words.score.parameters(), words.prior):
        weight.mul_(sharpness)


@torch.no_grad()
def _add_logit_biases(
    recipe: StoryRecipe,
    projector: Projector,
    words: Sequence[int],
    encode: Callable[[str], Sequence[int]],
) -> None:
    """Make what is hardly likelier than a hedge give way to it."""
    for token, word, more in logit_biases(recipe.doubt, recipe.camera_doubt):
        first = encode(f" {word}")[0]
        if more and first not in words:
            raise ReellamaError(f'doubt needs "{word}" among the projector\'s words')
        if more:
            projector.words.prior[token, words.index(first)] += more


def _say_nothing(line: str) -> None:
    pass


def _train_tower(
    recipe: StoryRecipe, out: Path, work: Path, material: Path, report: Callable[[str], None]
) -> float:
    """Train the tower, or what is left of that; returns seconds."""
    if not recipe.look.steps:
        raise ReellamaError(
            "a recipe with stories needs [look] steps, or [tower] name: a folder, or a CLIP's name"
        )
    stills, validation = (
        SyntheticClips(
            recipe.stories, recipe.contrastive.image_size, material, split=split, stills=True
        )
        for split in ("train", "validation")
    )
    looking = TowerStage(
        stills, validation, recipe.contrastive, work,
        layers=grid_layers(recipe.tower.layer, recipe.tower.finer), device=device(),
        seed=recipe.seed, report=report,
    )  # fmt: skip
    seconds = looking.run(recipe.look, out)
    distributed.barrier()
    return seconds


def _chosen_tower(recipe: StoryRecipe, begun: Bundle | None) -> TowerSpec:
    """The recipe's tower, else that of the bundle it begins with; without a name, a new one."""
    if recipe.tower.name or not begun:
        return TowerSpec(**vars(recipe.tower))
    own = begun.folder / begun.config.tower.name
    return replace(begun.config.tower, name=str(own)) if own.is_dir() else begun.config.tower


def _nearest_tokens(projector: Projector, llm: FrozenLLM) -> list[int]:
    """The tokens whose embeddings a trained projector's words began as: still the nearest ones."""
    vocabulary = F.normalize(llm.model.get_input_embeddings().weight.float(), dim=1)
    rows = F.normalize(projector.words.embeddings.detach().float(), dim=1)
    return (rows @ vocabulary.T).argmax(1).tolist()


def _projector(recipe: StoryRecipe, tower: Tower, llm: FrozenLLM, words: list[int]) -> Projector:
    """A new one, which mixes the embeddings of `words`."""
    pixels = torch.zeros(1, 3, tower.size, tower.size, dtype=torch.uint8)
    _, cells, channels = tower.cells(pixels.to(tower.device)).shape
    chosen = {**vars(recipe.projector), "words": len(words)}
    torch.manual_seed(recipe.seed)
    config = ProjectorConfig(**chosen, n_embd=llm.n_embd, channels=channels, cells=cells)
    projector = Projector(config)
    with torch.no_grad():
        projector.words.embeddings.copy_(llm.embed(words).float())
    return projector


def _save(
    recipe: StoryRecipe,
    out: Path,
    tower: TowerSpec,
    training: InstructionStages,
    made: dict[str, Any],
) -> Bundle:
    """Write the bundle; `tower` is what it was trained with, and `made` how that was done."""
    llm, source = training.llm, Path(tower.name)
    config = BundleConfig(
        name=recipe.name,
        llm=recipe.llm,
        projector=training.projector.config,
        tower=replace(tower, name="tower") if source.is_dir() else tower,
        frames=recipe.stories.frames,
        system=training.teacher.system,
        describe=prompts.load("describe"),
        lora=((ADAPTER, 1.0),),
        training=made,
    )
    out.mkdir(parents=True, exist_ok=True)
    training.lora.save(out / ADAPTER, read_gguf(find.resolve(recipe.llm)))
    if recipe.labels:
        encode = llm.tokenizer.encode
        ImageNetClassifier.of_imagenet(name_ids(encode, encode("\n")[0]), llm.embed).save(
            out / "labels.safetensors"
        )
    if source.is_dir() and source.resolve() != (out / "tower").resolve():
        shutil.copytree(source, out / "tower", dirs_exist_ok=True)
    return save_bundle(out, config, training.projector)
