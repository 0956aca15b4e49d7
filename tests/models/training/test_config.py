"""Training configs: what is in a file is used or refused, in one line that names file and key."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reellama.gguf_tools.errors import ReellamaError
from reellama.models.synthetic.scenarios.registry import SCENARIOS
from reellama.models.synthetic.scenarios.stills import STILL_SCENARIOS
from reellama.models.training.config import (
    CaptionConfig,
    MultiStageConfig,
    StageConfig,
    read_config,
)

CONFIGS = Path(__file__).parents[3] / "models" / "configs"
TYPES = {"staged": StageConfig, "captions": CaptionConfig}
STAGE = '[[stages]]\nname = "one"\n'


def complaint(folder: Path, text: str) -> str:
    """What is said of a config, without the path before it."""
    path = folder / "kitchen.toml"
    path.write_text(text)
    with pytest.raises(ReellamaError) as caught:
        read_config(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and "\n" not in said
    return said.removeprefix(f"{path}: ")


def stage_complaint(folder: Path, text: str) -> str:
    """What is said of a config with one stage of these keys and tables, without its name."""
    said = complaint(folder, f'name = "x"\n{STAGE}{text}')
    assert said.startswith("stage one: ")
    return said.removeprefix("stage one: ")


def tables(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every table of a config, itself first."""
    yield path
    for entry in dataclasses.fields(values):
        value = getattr(values, entry.name)
        if dataclasses.is_dataclass(value):
            yield from tables(value, (*path, entry.name))


def test_the_captions_that_come_along_hold_one_style_back() -> None:
    config = read_config(CONFIGS / "captions.toml")
    assert isinstance(config, CaptionConfig) and config.name == "captions"
    assert "twemoji" not in config.rendered.styles


def mini() -> MultiStageConfig:
    config = read_config(CONFIGS / "mini.toml")
    assert isinstance(config, MultiStageConfig)
    return config


def test_mini_is_twelve_stages_each_upon_the_one_before() -> None:
    stages = mini().stages
    assert len(stages) == 12
    assert [stage.init_from for stage in stages] == ["", *(one.stage for one in stages[:-1])]
    assert [stage.name for stage in stages] == ["mini"] * 12
    assert not any("twemoji" in stage.synthetic.styles for stage in stages)


def test_a_stage_draws_clips_of_its_own_seed() -> None:
    seeds = [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert [stage.seed for stage in mini().stages] == seeds
    assert [stage.synthetic.seed for stage in mini().stages] == seeds


def test_the_stages_of_mini_are_trained_as_long_as_they_were() -> None:
    """The steps of each phase; all other settings were compared when the files became one."""
    assert {stage.stage: _steps(stage) for stage in mini().stages} == {
        "base": {"tower": 1000, "align": 1113, "joint": 371},
        "codec-clips": {"align": 180, "joint": 100},
        "place-changes": {"align": 340},
        "unknown-things": {"align": 130, "joint": 80},
        "all-questions": {"joint": 160},
        "shuffled-frames": {"align": 440},
        "count-weight": {"align": 240},
        "no-answer": {"joint": 90},
        "orders": {"align": 240, "joint": 80},
        "orders-of-shapes": {"align": 270},
        "motion-weight": {"align": 200, "joint": 60},
        "count-stills": {"align": 250},
    }


def _steps(stage: StageConfig) -> dict[str, int]:
    return {name: phase.steps for name, phase in stage.phases().items()}


def test_what_stands_above_the_stages_is_a_default_for_each(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("""
        name = "kitchen"
        seed = 3
        [lora]
        rank = 4
        alpha = 8.0
        [[stages]]
        name = "first"
        [[stages]]
        name = "second"
        init_from = "first"
        seed = 5
        [stages.lora]
        rank = 2
        [stages.synthetic]
        seed = 7
    """)
    config = read_config(path)
    assert isinstance(config, MultiStageConfig)
    first, second = config.stages
    assert (first.seed, first.synthetic.seed, first.lora.rank, first.lora.alpha) == (3, 3, 4, 8.0)
    assert (second.seed, second.synthetic.seed, second.lora.rank) == (5, 7, 2)
    assert second.lora.alpha == 8.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stages = 3", "stages must be an array of tables"),
        ("stages = []", "there is no stage"),
        ("[[stages]]\nseed = 1", "stage 1 needs a name that can be a folder, not None"),
        ('[[stages]]\nname = "a/b"', "stage 1 needs a name that can be a folder, not 'a/b'"),
        (STAGE + STAGE, "two stages are called one"),
        (
            f'{STAGE}init_from = "two"\n[[stages]]\nname = "two"',
            "stage one: init_from = 'two' is not an earlier stage",
        ),
        (f"{STAGE}processes = 0", "stage one: processes must be 1 or more, not 0"),
    ],
)
def test_stages_have_names_and_an_order(text: str, said: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, f'name = "x"\n{text}').startswith(said)


@pytest.mark.parametrize(
    ("kind", "table"),
    [(kind, table) for kind, cls in TYPES.items() for table in tables(cls("x"))],
    ids=lambda part: part if isinstance(part, str) else ".".join(part) or "config",
)
def test_a_misspelled_key_is_refused_in_every_table(
    kind: str, table: tuple[str, ...], tmp_path: Path
) -> None:
    """The nearest key that there is, is suggested, and all of them are told."""
    values: Any = TYPES[kind]("x")
    for name in table:
        values = getattr(values, name)
    known = [entry.name for entry in dataclasses.fields(values) if entry.name != "stage"]
    said = stage_complaint if kind == "staged" else complaint
    prefix = "stages." if kind == "staged" else ""
    for key in known:
        if table:
            head = "" if kind == "staged" else 'name = "x"\n'
            told = said(tmp_path, f"{head}[{prefix}{table[0]}]\n{key}x = 1")
            assert told.startswith(f"no key of [{table[0]}] is called {key}x; ")
        else:
            head = "" if kind == "staged" else 'name = "x"\n'
            told = said(tmp_path, f"{head}{key}x = 1")
            assert told.startswith(f"no key of a config is called {key}x; ")
        assert f"did you mean {key}?" in told
        assert told.endswith(", ".join(known))


@pytest.mark.parametrize("kind", TYPES)
def test_a_key_of_the_other_type_is_refused(kind: str, tmp_path: Path) -> None:
    ours, others = TYPES[kind], next(cls for name, cls in TYPES.items() if name != kind)
    known = [entry.name for entry in dataclasses.fields(ours) if entry.name != "stage"]
    names = {entry.name for entry in dataclasses.fields(others)} - {*known, "stage"}
    assert names
    for name in names:
        if kind == "staged":
            said = stage_complaint(tmp_path, f"{name} = 1")
        else:
            said = complaint(tmp_path, f'name = "x"\n{name} = 1')
        assert said.startswith(f"{name} does nothing in a config with")
        assert said.endswith(", ".join(known))


def test_a_phase_takes_only_what_it_uses(tmp_path: Path) -> None:
    only_of_clips = ("tower", "sampling_weights"), ("tower", "still_batch")
    for phase, key in (*only_of_clips, ("text_only", "still_batch")):
        said = stage_complaint(tmp_path, f"[stages.{phase}]\n{key} = 1")
        assert said.startswith(f"no key of [{phase}] is called {key}; ")
    for key in ("still_batch", "sampling_weights"):
        assert key in complaint(tmp_path, f'name = "x"\n[answer]\n{key} = 1')


def test_only_scenarios_that_a_phase_draws_have_sampling_weights(tmp_path: Path) -> None:
    said = stage_complaint(tmp_path, "[stages.align]\nsampling_weights = { shufle = 2.0 }")
    assert said.startswith(
        "[align] no scenario is called shufle; did you mean shuffle? Known: one, "
    )
    said = stage_complaint(tmp_path, "[stages.joint]\nsampling_weights = { copies = 2.0 }")
    assert said == "[joint] sampling_weights.copies does nothing in a phase without still_batch"
    every = ", ".join(f"{name} = 2.0" for name in {**SCENARIOS, **STILL_SCENARIOS})
    path = tmp_path / "config.toml"
    phase = f"still_batch = 1\nsampling_weights = {{ {every} }}"
    path.write_text(f'name = "x"\n{STAGE}[stages.align]\n{phase}')
    assert isinstance(read_config(path), MultiStageConfig)


@pytest.mark.parametrize("kind", TYPES)
def test_styles_are_known_and_each_has_its_weight(kind: str, tmp_path: Path) -> None:
    def said(values: str) -> str:
        if kind == "staged":
            return stage_complaint(tmp_path, f"[stages.synthetic]\n{values}")
        return complaint(tmp_path, f'name = "x"\n[rendered]\n{values}')

    assert "no picture style is called notto; did you mean noto?" in said(
        'styles = ["notto"]\nstyle_weights = [1.0]'
    )
    for weights in ("0.5, 0.5", "0.9", "", "1.5, -0.5"):
        assert "style_weights must be 1 numbers with the sum 1" in said(
            f'styles = ["noto"]\nstyle_weights = [{weights}]'
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("weight_average = 0.3", "weight_average does nothing without init_from"),
        ("lora_weight_average = 0.3", "lora_weight_average does nothing without init_from"),
        (
            'init_from = "a"\naverage_with = "b"',
            "average_with does nothing without weight_average",
        ),
        (
            'init_from = "a"\n[stages.projector]\ntokens = 60',
            "projector does nothing beside init_from",
        ),
        ('init_from = "a"\n[stages.tower]\nsteps = 3', "tower does nothing beside init_from"),
        (
            'init_from = "a"\n[stages.vision_tower]\nfine_layers = 1',
            "vision_tower.fine_layers does nothing without vision_tower.name",
        ),
        (
            '[stages.tower]\nsteps = 3\n[stages.vision_tower]\nname = "a"\npretrained = "b"',
            "tower does nothing beside vision_tower.name",
        ),
        (
            '[stages.vision_tower]\npretrained = "a"',
            "vision_tower.pretrained does nothing without vision_tower.name",
        ),
        (
            "[stages.lora]\noracle_fraction = 0.2",
            "lora.oracle_fraction does nothing without lora.freeze_projector",
        ),
        (
            "[stages.lora]\nfreeze_projector = true\nalign_weight = 0.2",
            "lora.align_weight does nothing beside lora.freeze_projector",
        ),
    ],
)
def test_a_key_of_a_stage_that_would_do_nothing_is_refused(
    text: str, said: str, tmp_path: Path
) -> None:
    assert stage_complaint(tmp_path, text).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('data = "a.csv"\nstills = 3', "stills does nothing beside data"),
        ('data = "a.csv"\n[rendered]\nclips = 3', "rendered does nothing beside data"),
        (
            '[vision_tower]\nname = "a"\npretrained = "b"\n[contrastive]\nepochs = 3',
            "contrastive does nothing beside vision_tower.name",
        ),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(text: str, said: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, f'name = "x"\n{text}').startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not a training config: "),
        ("frames = 3", "the bundle has no name"),
        ('name = "x"\nframes = true', "frames must be a whole number, not True"),
        ('name = "x"\nalign = 3', "align must be a table, not 3"),
        ('name = "x"\n[align]\nsteps = "many"', "align.steps must be a whole number, not 'many'"),
        ('name = "x"\n[align]\nsteps = -1', "[align] steps must be 0 or more, not -1"),
        (
            'name = "x"\n[align]\ncheckpoint_every = 0',
            "[align] checkpoint_every must be 1 or more, not 0",
        ),
        ('name = "x"\n[projector]\nkind = "lens"', "[projector] no projector is called lens"),
    ],
)
def test_a_value_of_another_kind_is_refused(text: str, said: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, text).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("align = 3", "align must be a table, not 3"),
        ("[stages.align]\nsampling_weights = 2", "align.sampling_weights must be a table, not 2"),
        (
            '[stages.align]\nsampling_weights = { one = "a" }',
            "align.sampling_weights.one must be a number",
        ),
        (
            "[stages.align]\nsampling_weights = { one = -1 }",
            "[align] sampling_weights.one must be 0 or more",
        ),
        ('[stages.synthetic]\nstyles = "noto"', "synthetic.styles must be an array"),
        ("[stages.synthetic]\nframes = 4", "[synthetic] fewest_frames must be from 1 to frames"),
    ],
)
def test_a_value_of_another_kind_in_a_stage_is_refused(
    text: str, said: str, tmp_path: Path
) -> None:
    assert stage_complaint(tmp_path, text).startswith(said)


@pytest.mark.parametrize("stage", [False, True])
def test_a_model_of_open_clip_without_weights_is_refused(stage: bool, tmp_path: Path) -> None:
    """Its weights would be random. A folder and a model of the hub bring theirs."""
    (tmp_path / "tower").mkdir()
    table = "[stages.vision_tower]" if stage else "[vision_tower]"
    start = f'name = "x"\n{STAGE if stage else ""}{table}\n'
    assert "a model of open_clip has random weights without pretrained" in complaint(
        tmp_path, f'{start}name = "ViT-B-32"\n'
    )
    path = tmp_path / "kitchen.toml"
    for tower in (f"name = '{tmp_path / 'tower'}'", 'name = "hf-hub:someone/something"'):
        path.write_text(f"{start}{tower}\n")
        read_config(path)
    path.write_text(f'{start}name = "ViT-B-32"\npretrained = "laion2b_s34b_b79k"\n')
    read_config(path)
