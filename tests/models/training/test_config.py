"""Recipes: what is in a file is used or refused, in one line that names file and key."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_tools.errors import ReellamaError
from models.synthetic.scenarios.registry import SCENARIOS
from models.synthetic.scenarios.stills import STILL_SCENARIOS
from models.training.config import CaptionRecipe, StoryRecipe, TrainingConfig

RECIPES = sorted((Path(__file__).parents[3] / "models" / "configs").glob("*.toml"))
WAYS = {"stories": StoryRecipe, "align": CaptionRecipe}  # by a table that only it has


def complaint(folder: Path, text: str) -> str:
    """What is said of a recipe, without the path before it."""
    path = folder / "kitchen.toml"
    path.write_text(text)
    with pytest.raises(ReellamaError) as caught:
        TrainingConfig.read(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "\n" not in said
    return said.removeprefix(f"{path}: ")


def tables(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every table of a recipe, itself first."""
    yield path
    for entry in dataclasses.fields(values):
        value = getattr(values, entry.name)
        if dataclasses.is_dataclass(value):
            yield from tables(value, (*path, entry.name))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_come_along_are_read_and_hold_one_style_back(path: Path) -> None:
    recipe = TrainingConfig.read(path)
    captions = path.stem == "captions"
    assert recipe.name == ("captions" if captions else "mini")
    assert isinstance(recipe, CaptionRecipe if captions else StoryRecipe)
    drawn = recipe.rendered if isinstance(recipe, CaptionRecipe) else recipe.stories
    assert "twemoji" not in drawn.styles


@pytest.mark.parametrize(
    ("way", "table"),
    [(way, table) for way, cls in WAYS.items() for table in tables(cls("x"))],
    ids=lambda part: part if isinstance(part, str) else ".".join(part) or "recipe",
)
def test_a_misspelled_key_is_refused_in_every_table(
    way: str, table: tuple[str, ...], tmp_path: Path
) -> None:
    """The nearest key that there is, is suggested, and all of them are told."""
    values: Any = WAYS[way]("x")
    for name in table:
        values = getattr(values, name)
    known = [entry.name for entry in dataclasses.fields(values)]
    for key in known:
        if table:
            text = f'name = "x"\n[{way}]\n' + (f"[{table[0]}]\n" if table[0] != way else "")
            said = complaint(tmp_path, f"{text}{key}x = 1")
            assert said.startswith(f"no key of [{table[0]}] is called {key}x; ")
        else:
            said = complaint(tmp_path, f'name = "x"\n{key}x = 1\n[{way}]')
            assert said.startswith(f"no key of a recipe is called {key}x; ")
        assert f"did you mean {key}?" in said
        assert said.endswith(", ".join(known))


@pytest.mark.parametrize("way", WAYS)
def test_a_key_of_the_other_way_to_train_is_refused(way: str, tmp_path: Path) -> None:
    ours, others = WAYS[way], next(cls for name, cls in WAYS.items() if name != way)
    known = [entry.name for entry in dataclasses.fields(ours)]
    names = {entry.name: entry for entry in dataclasses.fields(others) if entry.name not in known}
    assert names
    for name, entry in names.items():
        if ours is CaptionRecipe and dataclasses.is_dataclass(entry.default):
            continue  # its tables are what tells a recipe with stories
        text = f'name = "x"\n{name} = 1\n' + ("[stories]" if ours is StoryRecipe else "")
        said = complaint(tmp_path, text)
        assert said.startswith(f"{name} does nothing in a recipe with")
        assert said.endswith(", ".join(known))


def test_a_stage_takes_only_what_it_uses(tmp_path: Path) -> None:
    for stage, key in (("look", "emphasis"), ("look", "stills"), ("study", "stills")):
        said = complaint(tmp_path, f'name = "x"\n[{stage}]\n{key} = 1')
        assert said.startswith(f"no key of [{stage}] is called {key}; ")
    for key in ("stills", "emphasis"):
        assert key in complaint(tmp_path, f'name = "x"\n[answer]\n{key} = 1')


def test_what_is_emphasised_is_something_that_the_stage_tells(tmp_path: Path) -> None:
    said = complaint(tmp_path, 'name = "x"\n[see]\nemphasis = { shufle = 2.0 }')
    assert said.startswith("[see] no story is called shufle; did you mean shuffle? Known: one, ")
    said = complaint(tmp_path, 'name = "x"\n[tell]\nemphasis = { copies = 2.0 }')
    assert said == "[tell] emphasis.copies does nothing in a stage without stills"
    every = ", ".join(f"{name} = 2.0" for name in {**SCENARIOS, **STILL_SCENARIOS})
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "x"\n[see]\nstills = 1\nemphasis = {{ {every} }}')
    assert isinstance(TrainingConfig.read(path), StoryRecipe)


@pytest.mark.parametrize("table", ["stories", "rendered"])
def test_styles_are_known_and_each_has_its_weight(table: str, tmp_path: Path) -> None:
    text = f'name = "x"\n[{table}]\nstyles = ["notto"]\nstyle_weights = [1.0]'
    assert f"[{table}] no picture style is called notto; did you mean noto?" in complaint(
        tmp_path, text
    )
    for weights in ("0.5, 0.5", "0.9", "", "1.5, -0.5"):
        text = f'name = "x"\n[{table}]\nstyles = ["noto"]\nstyle_weights = [{weights}]'
        assert f"[{table}] style_weights must be a number for each" in complaint(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kept = 0.3\n[see]", "kept does nothing without start"),
        ("kept_adapter = 0.3\n[see]", "kept_adapter does nothing without start"),
        ('start = "a"\nkept_of = "b"\n[see]', "kept_of does nothing without kept"),
        ('start = "a"\n[see]\n[projector]\ntokens = 60', "projector does nothing beside start"),
        ('start = "a"\n[look]\nsteps = 3', "look does nothing beside start"),
        ('start = "a"\n[see]\n[tower]\nfiner = 1', "tower.finer does nothing without tower.name"),
        ('[look]\nsteps = 3\n[tower]\nname = "a"', "look does nothing beside tower.name"),
        ('[see]\n[tower]\npretrained = "a"', "tower.pretrained does nothing without tower.name"),
        ("[adapter]\nfaultless = 0.2", "adapter.faultless does nothing without adapter.frozen"),
        (
            "[adapter]\nfrozen = true\nalign_weight = 0.2",
            "adapter.align_weight does nothing beside adapter.frozen",
        ),
        ('data = "a.csv"\nstills = 3', "stills does nothing beside data"),
        ('data = "a.csv"\n[rendered]\nclips = 3', "rendered does nothing beside data"),
        (
            '[tower]\nname = "a"\n[contrastive]\nepochs = 3',
            "contrastive does nothing beside tower.name",
        ),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(text: str, said: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, f'name = "x"\n{text}').startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not a recipe: "),
        ("frames = 3", "the bundle has no name"),
        ('name = "x"\nframes = true', "frames must be a whole number, not True"),
        ('name = "x"\nalign = 3', "align must be a table, not 3"),
        ('name = "x"\n[align]\nsteps = "many"', "align.steps must be a whole number, not 'many'"),
        ('name = "x"\n[align]\nsteps = -1', "[align] steps must be 0 or more, not -1"),
        ('name = "x"\n[align]\nevery = 0', "[align] every must be 1 or more, not 0"),
        ('name = "x"\n[see]\nemphasis = 2', "see.emphasis must be a table, not 2"),
        ('name = "x"\n[see]\nemphasis = { one = "a" }', "see.emphasis.one must be a number"),
        ('name = "x"\n[see]\nemphasis = { one = -1 }', "[see] emphasis.one must be 0 or more"),
        ('name = "x"\n[stories]\nstyles = "noto"', "stories.styles must be an array"),
        ('name = "x"\n[stories]\nframes = 4', "[stories] fewest_frames must be from 1 to frames"),
        ('name = "x"\n[projector]\nkind = "lens"', "[projector] no projector is called lens"),
    ],
)
def test_a_value_of_another_kind_is_refused(text: str, said: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, text).startswith(said)
