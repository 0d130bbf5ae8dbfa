"""Typed configuration: what is merged, what is refused, and in which words."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from mvss.presets.reader import available_presets, config_hash, load_config, save_config
from mvss.runtime.errors import MvssError


@dataclass(frozen=True)
class Sampler:
    steps: int
    sigma_max: float = 10.0
    kind: Literal["ddim", "heun"] = "ddim"


@dataclass(frozen=True)
class Problem:
    sources: int
    shape: tuple[int, ...] = (5,)
    fraction: float | None = None
    sampler: Sampler | None = None


@dataclass(frozen=True)
class Config:
    name: str
    sampler: Sampler = field(default_factory=lambda: Sampler(steps=16, sigma_max=0.3))
    problems: dict[str, Problem] = field(default_factory=dict)
    stages: list[Sampler] = field(default_factory=list)
    warm: tuple[Sampler, ...] = ()
    span: tuple[float, float] = (-2.0, 2.0)
    grid: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rate: float = 1e-3
    budget: int | str = "auto"
    resume: bool = True
    folder: Path = Path("results")


PRESET = """
name: cpu
sampler: {steps: 40}
problems:
  mixed-0.1: {sources: 2, fraction: 0.1}
  contrastive: {sources: 3, shape: [5, 2], sampler: {steps: 2}}
stages: [{steps: 1}]
warm:
  - steps: 4
grid: {a: [1, 2]}
budget: 1000
"""


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "cpu.yaml"
    path.write_text(PRESET)
    (tmp_path / "smoke.yaml").write_text("name: smoke\n")
    return path


def test_preset_over_defaults(preset: Path) -> None:
    assert load_config(Config, preset) == Config(
        name="cpu",
        sampler=Sampler(steps=40, sigma_max=0.3),
        problems={
            "mixed-0.1": Problem(sources=2, fraction=0.1),
            "contrastive": Problem(sources=3, shape=(5, 2), sampler=Sampler(steps=2)),
        },
        stages=[Sampler(steps=1)],
        warm=(Sampler(steps=4),),
        grid={"a": (1, 2)},
        budget=1000,
    )


def test_overrides(preset: Path) -> None:
    config = load_config(
        Config,
        preset,
        [
            "sampler.steps=3",
            "sampler.kind=heun",
            "problems.contrastive.shape=[7]",
            "problems.contrastive.fraction=1",
            "problems.contrastive.sampler.sigma_max=2",
            "stages.0.steps=9",
            "warm=[]",
            "span=[0, 1]",
            "rate=1e-4",
            "resume=false",
            "folder=out",
        ],
    )
    assert config.sampler == Sampler(steps=3, sigma_max=0.3, kind="heun")
    assert config.problems["contrastive"] == Problem(3, (7,), 1.0, Sampler(steps=2, sigma_max=2.0))
    assert isinstance(config.problems["contrastive"].fraction, float)
    assert (config.stages, config.warm, config.span) == ([Sampler(steps=9)], (), (0.0, 1.0))
    assert (config.rate, config.resume, config.folder) == (1e-4, False, Path("out"))
    assert load_config(Config, preset, ["problems.contrastive.sampler=null"]).problems["contrastive"].sampler is None


def test_a_path_may_begin_at_home(preset: Path) -> None:
    assert load_config(Config, preset, ["folder=~/out"]).folder == Path.home() / "out"
    assert load_config(Config, preset, ["folder=~nobody-here/out"]).folder == Path("~nobody-here/out")


def test_interpolation_follows_overrides(tmp_path: Path) -> None:
    path = tmp_path / "cpu.yaml"
    path.write_text("name: cpu\nsampler: {steps: 5}\nstages: [{steps: '${sampler.steps}'}]\n")
    assert load_config(Config, path, ["sampler.steps=8"]).stages == [Sampler(steps=8)]


@pytest.mark.parametrize(
    "override, words",
    [
        ("sampler.step=3", ["'sampler.step'", "did you mean 'steps'", "sigma_max", "kind"]),
        ("samplr.steps=3", ["'samplr'", "did you mean 'sampler'"]),
        ("problems.mixed.sources=3", ["'problems.mixed'", "mixed-0.1"]),
        ("stages.1.steps=3", ["'stages.1'", "allowed: 0"]),
        ("problems.contrastive.fraction.x=3", ["'problems.contrastive.fraction' is None"]),
        ("sampler.steps=many", ["'sampler.steps'", "'many'", "int"]),
        ("sampler.steps=2.5", ["'sampler.steps'", "2.5", "int"]),
        ("sampler.steps=true", ["'sampler.steps'", "True", "int"]),
        ("sampler.steps=null", ["'sampler.steps'", "None", "int"]),
        ("sampler=3", ["'sampler'", "3"]),
        ("sampler={step: 3}", ["'sampler.step'", "did you mean 'steps'"]),
        ("sampler.kind=heum", ["'sampler.kind'", "did you mean 'heun'", "ddim"]),
        ("span=[1]", ["'span'", "needs 2"]),
        ("span=[1, x]", ["'span.1'", "'x'", "float"]),
        ("grid.a=[x]", ["'grid.a.0'", "'x'", "int"]),
        ("problems.contrastive.shape=3", ["'problems.contrastive.shape'", "tuple"]),
        ("budget=[1]", ["'budget'", "int", "str"]),
        ("resume", ["malformed override 'resume'", "key=value"]),
        ("=3", ["malformed override", "key=value"]),
        ("sampler..steps=3", ["malformed override", "key=value"]),
        ("span=[1", ["malformed override 'span=[1'", "YAML"]),
        ("rate=${nothing}", ["nothing"]),
    ],
)
def test_bad_overrides_are_one_line(preset: Path, override: str, words: list[str]) -> None:
    with pytest.raises(MvssError) as caught:
        load_config(Config, preset, [override])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    "text, words",
    [
        ("name: a\nsamper: {steps: 1}\n", ["'samper'", "did you mean 'sampler'"]),
        ("name: a\nproblems: {p: {source: 1}}\n", ["'problems.p.source'", "did you mean 'sources'"]),
        ("name: a\nproblems: {p: {fraction: 1}}\n", ["'problems.p.sources'", "no value"]),
        ("sampler: {steps: 1}\n", ["'name'", "no value"]),
        ("name: [a\n", ["not valid YAML"]),
        ("name: a\nname: b\n", ["not valid YAML"]),
        ("- a\n", ["key: value"]),
        ("", ["'name'", "no value"]),
    ],
)
def test_bad_presets_are_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "cpu.yaml"
    path.write_text(text)
    with pytest.raises(MvssError) as caught:
        load_config(Config, path)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_unknown_preset(preset: Path) -> None:
    assert available_presets(preset.parent) == ["cpu", "smoke"]
    with pytest.raises(MvssError, match=r"unknown preset 'smok': did you mean 'smoke'\? allowed: cpu, smoke"):
        load_config(Config, preset.with_name("smok.yaml"))


def test_saved_configuration_loads_again(preset: Path, tmp_path: Path) -> None:
    config = load_config(Config, preset, ["rate=1e-5", "folder=a/b"])
    save_config(config, tmp_path / "seed-0" / "config.yaml")
    assert load_config(Config, tmp_path / "seed-0" / "config.yaml") == config


def test_hash_is_stable(preset: Path) -> None:
    config = load_config(Config, preset)
    canonical = b'{"kind":"ddim","sigma_max":10.0,"steps":3}'
    assert config_hash(Sampler(steps=3)) == hashlib.sha256(canonical).hexdigest()
    assert config_hash(config) == config_hash(load_config(Config, preset, ["sampler.steps=40"]))
    assert config_hash(config) == config_hash(replace(config, problems=dict(reversed(config.problems.items()))))
    assert config_hash(config) != config_hash(load_config(Config, preset, ["sampler.steps=41"]))
    assert config_hash(config) != config_hash(replace(config, warm=()))


@dataclass(frozen=True)
class _Round:
    kind: Literal["round"] = "round"
    radius: float = 1.0
    steps: int = 2


@dataclass(frozen=True)
class _Square:
    kind: Literal["square"] = "square"
    side: float = 1.0
    steps: int = 4


@dataclass(frozen=True)
class _Shapes:
    first: _Round | _Square = field(default_factory=_Round)
    last: _Round | _Square | None = None
    named: dict[str, _Round | _Square] = field(default_factory=dict)
    listed: tuple[_Round | _Square, ...] = ()


SHAPES = """
first: {radius: 3.0}
last: {kind: square, side: 2.0}
named: {a: {kind: square}, b: {kind: round, steps: 1}}
listed: [{kind: round}]
"""


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    path = tmp_path / "shapes.yaml"
    path.write_text(SHAPES)
    return path


def test_a_kind_names_which_group_of_keys_is_meant(shapes: Path) -> None:
    found = load_config(_Shapes, shapes)
    named = {"a": _Square(), "b": _Round(steps=1)}
    assert found == _Shapes(_Round(radius=3.0), _Square(side=2.0), named, (_Round(),))
    save_config(found, shapes.with_name("again.yaml"))
    assert load_config(_Shapes, shapes.with_name("again.yaml")) == found


def test_another_kind_replaces_the_whole_group(shapes: Path) -> None:
    """In a preset over the defaults, and in an override over the preset: what the other kind said is gone."""
    shapes.write_text("first: {kind: square, side: 2.0}\n")
    assert load_config(_Shapes, shapes).first == _Square(side=2.0)
    shapes.write_text(SHAPES)
    assert load_config(_Shapes, shapes, ["first={kind: square, side: 5}"]).first == _Square(side=5.0)
    assert load_config(_Shapes, shapes, ["first={kind: square}"]).first == _Square()  # no radius of the preset's is left
    assert load_config(_Shapes, shapes, ["last={kind: round}"]).last == _Round()
    assert load_config(_Shapes, shapes, ["named.a={kind: round, radius: 2}"]).named["a"] == _Round(radius=2.0)
    assert load_config(_Shapes, shapes, ["last=null"]).last is None


def test_the_same_kind_is_overlaid_key_by_key(shapes: Path) -> None:
    assert load_config(_Shapes, shapes, ["first.steps=7"]).first == _Round(radius=3.0, steps=7)
    assert load_config(_Shapes, shapes, ["first={kind: round, steps: 7}"]).first == _Round(radius=3.0, steps=7)
    assert load_config(_Shapes, shapes, ["first={steps: 7}"]).first == _Round(radius=3.0, steps=7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("last: {side: 2.0}", ["'last.kind' has no value", "round, square"]),
        ("named: {a: {}}", ["'named.a.kind' has no value"]),
        ("listed: [{radius: 1.0}]", ["'listed.0.kind' has no value"]),
        ("first: {kind: squre}", ["'first.kind' is 'squre'", "did you mean 'square'", "round, square"]),
        ("first: {kind: 3}", ["'first.kind' is 3", "round, square"]),
        ("first: {kind: [round]}", ["'first.kind' is ['round']", "round, square"]),
        ("first: {side: 2.0}", ["unknown key 'first.side'", "radius"]),
        ("last: {kind: square, side: wide}", ["'last.side' is 'wide'"]),
        ("named: {b: {kind: round, stps: 1}}", ["unknown key 'named.b.stps'", "did you mean 'steps'"]),
        ("first: 3", ["'first' is 3"]),
    ],
)
def test_bad_kinds_are_one_line(shapes: Path, text: str, words: list[str]) -> None:
    shapes.write_text(text)
    with pytest.raises(MvssError) as caught:
        load_config(_Shapes, shapes)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_an_override_of_the_kind_alone_starts_from_its_defaults(shapes: Path) -> None:
    assert load_config(_Shapes, shapes, ["first.kind=square"]).first == _Square()
    assert load_config(_Shapes, shapes, ["last.kind=round"]).last == _Round()
    assert load_config(_Shapes, shapes, ["named.a.kind=round", "listed.0.kind=square"]).listed == (_Square(),)
    assert load_config(_Shapes, shapes, ["first.kind=round"]).first == _Round(radius=3.0)  # as it was
    assert load_config(_Shapes, shapes, ["first.kind=square", "first.side=2"]).first == _Square(side=2.0)
    with pytest.raises(MvssError, match=r"'first\.kind' is 'squre': did you mean 'square'"):
        load_config(_Shapes, shapes, ["first.kind=squre"])
