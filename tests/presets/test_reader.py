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
    radius: float = 1.0
    steps: int = 2


@dataclass(frozen=True)
class _Square:
    side: float = 1.0
    corners: int = 4


@dataclass(frozen=True)
class _Shapes:
    shapes: dict[str, _Round | _Square] = field(default_factory=dict)


def test_of_several_groups_of_keys_the_one_that_is_meant_is_built_and_says_what_is_wrong(tmp_path: Path) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text("shapes: {a: {side: 2.0}, b: {radius: 3.0, steps: 1}, c: {}}\n")
    assert load_config(_Shapes, preset).shapes == {"a": _Square(2.0), "b": _Round(3.0, 1), "c": _Round()}
    with pytest.raises(MvssError, match=r"'shapes\.a\.side' is 'wide'"):
        load_config(_Shapes, preset, ["shapes.a.side=wide"])
    preset.write_text("shapes: {b: {radius: 3.0, stps: 1}}\n")
    with pytest.raises(MvssError, match=r"unknown key 'shapes\.b\.stps': did you mean 'steps'"):
        load_config(_Shapes, preset)
