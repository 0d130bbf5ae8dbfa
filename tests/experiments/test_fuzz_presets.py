"""Presets that something happened to: what is wrong by construction is refused in one line, what is right is planned."""

from __future__ import annotations

__all__: list[str] = []

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from experiments.core.cli import main
from experiments.core.places import Experiment
from experiments.galaxies.__main__ import EXPERIMENT as GALAXIES
from experiments.manifolds.__main__ import EXPERIMENT as MANIFOLDS
from experiments.mnist_grass.__main__ import EXPERIMENT as MNIST_GRASS
from mvss.presets.reader import available_presets

EXPERIMENTS = (MANIFOLDS, MNIST_GRASS, GALAXIES)
FREE = ("least", "most", "digits", "distances", "seed")
"""Numbers that may be negative, or whose neighbours may not be there."""
SIZES = ("observations", "steps", "batch", "laps", "tessellations", "chunk", "beam", "saved", "averages")
"""Numbers that may be larger by one whatever the others are."""


class Brought(Experiment):
    """An experiment whose presets lie elsewhere."""

    presets: Path

    @property
    def folder(self) -> Path:
        return self.presets


class Place(NamedTuple):
    """A value within nested containers."""

    inside: Any
    key: Any
    name: str

    @property
    def value(self) -> Any:  # noqa: ANN401 - whatever YAML holds
        return self.inside[self.key]


def places(values: Any, name: str = "") -> Iterator[Place]:  # noqa: ANN401 - nested plain containers
    """All values, at any depth."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        here = str(key) if isinstance(values, dict) else name
        yield Place(values, key, here)
        if isinstance(value, (dict, list)):
            yield from places(value, here)


def numbers(values: Any) -> list[Place]:  # noqa: ANN401 - nested plain containers
    return [p for p in places(values) if type(p.value) in (int, float) and p.name not in FREE]


def misspelt(values: Any, dice: random.Random) -> None:  # noqa: ANN401
    """A key that there is not. Names of methods are free: groups of those are left out."""
    groups = [p.value for p in places(values) if isinstance(p.value, dict) and p.name not in ("methods", "ablations")]
    group = dice.choice([g for g in groups if g])
    key = dice.choice(list(group))
    group[key + "x"] = group[key]


def mistyped(values: Any, dice: random.Random) -> None:  # noqa: ANN401
    place = dice.choice(numbers(values))
    place.inside[place.key] = dice.choice(["many", [[1]], {"a": 1}, True, "1e-3x", "2026-01-01"])


def out_of_range(values: Any, dice: random.Random) -> None:  # noqa: ANN401
    place = dice.choice(numbers(values))
    place.inside[place.key] = dice.choice([-1 if isinstance(place.value, int) else -0.5, float("nan"), float("-inf")])


def larger(values: Any, dice: random.Random) -> None:  # noqa: ANN401
    """What stays right."""
    place = dice.choice([p for p in numbers(values) if p.name in SIZES and isinstance(p.inside, dict)])
    place.inside[place.key] += 1


DAMAGES: dict[str, tuple[Callable[[Any, random.Random], None], bool | None]] = {
    "misspelt": (misspelt, False),
    "mistyped": (mistyped, False),
    "out of range": (out_of_range, False),
    "larger": (larger, True),
    "cut": (lambda values, dice: None, None),
}
"""What happens to a preset, and whether it is still right; None where that is open."""


def plan(experiment: Experiment, text: bytes, folder: Path) -> int:
    """The exit status of a dry run of a preset."""
    (folder / "presets").mkdir(exist_ok=True)
    (folder / "presets" / "tried.yaml").write_bytes(text)
    brought = Brought(*(getattr(experiment, name) for name in Experiment.__dataclass_fields__))
    object.__setattr__(brought, "presets", folder)
    return main(brought, ["--preset", "tried", "--dry-run"], folder)


def tried(count: int, seed: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice, complaints = random.Random(seed), []
    for number in range(count):
        experiment = dice.choice(EXPERIMENTS)
        preset = dice.choice([p for p in available_presets(experiment.folder / "presets") if p != "paper"])
        text = (experiment.folder / "presets" / f"{preset}.yaml").read_bytes()
        name = list(DAMAGES)[number % len(DAMAGES)]
        damage, right = DAMAGES[name]
        values = copy.deepcopy(yaml.safe_load(text))
        damage(values, dice)
        changed = yaml.safe_dump(values).encode() if name != "cut" else text[: dice.randrange(len(text))]
        status = plan(experiment, changed, folder)
        said = capsys.readouterr().err
        good = status == 0 and not said if right else status == 2 and said.count("\n") == 1
        if not (good or (right is None and status == 0)):
            complaints.append(
                f"{number} {experiment.name} {preset} {name}: status {status}, {said!r}\n{values if not said else ''}"
            )
    assert not complaints, "\n".join(complaints)


def test_presets_that_something_happened_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tried(20, 0, tmp_path, capsys)


@pytest.mark.slow
def test_three_hundred_presets_that_something_happened_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tried(300, 1, tmp_path, capsys)
