"""What tells two runs apart: values, arrays, streams, objects, and code without its comments."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mvss.presets.settings import Settings
from mvss.presets.training import TrainingConfig
from mvss.problem.noise import Stationary
from mvss.problem.operators import Dense, Identity, LinearOperator
from mvss.problem.views import View, Views
from mvss.runtime.errors import MvssError
from mvss.runtime.fingerprint import _read, code_of, differing, digest, sources_of
from mvss.runtime.rng import Stream


@dataclass(frozen=True)
class One:
    value: object = 1


@dataclass(frozen=True)
class Two:
    value: object = 1


def close_over(value: object) -> object:
    return lambda x: (x, value)


DIFFERENT = [
    None, False, 0, 0.0, -0.0, "0", b"0", "", (), [], {}, set(), [0], [[0]], [0, [1]], [0, 1], [[0], 1], (0,), "0,",
    {"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": {"b": 2}}, {1: 0}, {"1": 0}, {3, 1}, Path("a"), torch.float32,
    float("nan"), torch.device("cpu"),
    torch.zeros(2), torch.zeros(2, dtype=torch.float64), torch.zeros(2, 1), torch.zeros(3), torch.tensor([0.0, 1e-30]),
    torch.zeros(2, dtype=torch.bfloat16), torch.zeros(0), torch.zeros(0, 3), torch.tensor(0.0), torch.zeros(2).to_sparse(),
    np.zeros(2), np.zeros(2, np.float32), np.zeros((2, 1)), np.float64(0.0), np.array(["a", None], dtype=object),
    One(), Two(), One(2), Stream(0), Stream(1), Stream(0, ("a",)), Stream(0, ("a", 1)), Stream(0, ("a", "1")),
    Identity((2,)), Identity((3,)), Dense(torch.eye(2)), Dense(2 * torch.eye(2)), len, One, close_over(1), close_over(2),
    Settings(), Settings(training=TrainingConfig(steps=7)), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2),
]  # fmt: skip


def test_no_two_of_these_are_the_same() -> None:
    digests = [digest(value) for value in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT) and all(len(letters) == 32 for letters in digests)
    assert digests == [digest(value) for value in DIFFERENT]


def test_content_decides_not_memory() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert digest(x.mT) == digest(x.mT.contiguous()) and digest(x[:1].expand(3, 4)) == digest(x[:1].repeat(3, 1))
    assert digest(x.numpy().T) == digest(x.numpy().T.copy())
    assert digest(x, 1) != digest((x, 1)) != digest(x)


def test_views_are_told_apart_and_use_leaves_no_trace() -> None:
    def views(shift: float = 0.0, scale: float = 1.0, numbers: int = 0) -> Views:
        y = torch.zeros(5, 1, 4, 4, dtype=torch.float64)
        y[3, 0, 1, 2] = shift
        noise = Stationary(torch.ones(1, 1))
        return Views([View(y, {"sky": Identity((1, 4, 4)).scaled(scale)}, noise, numbers=torch.arange(5) + numbers)])

    one = views()
    before = digest(one)
    assert one.shapes and one.select([slice(2)]).shapes
    one[0].noise.color(torch.zeros(1, 1, 3, 3, dtype=torch.float64))  # keeps a factor for images of this size
    assert digest(one) == before == digest(views())
    assert len({before, digest(views(1e-12)), digest(views(scale=2.0)), digest(views(numbers=1))}) == 4


OWN = """
import torch
from mvss.problem.operators import LinearOperator
{top}
class Own(LinearOperator):
    source_shape = observation_shape = (2,)
    {attribute}

    def __init__(self, gain):
        self._gain, self._cache, self.source_shape = torch.tensor(gain), None, (2,)

    def forward(self, x):
        {forward}
        return helped(self._gain * x)

    adjoint = forward
{bottom}
"""
USUAL = {"top": "SCALE = 1.0", "attribute": "", "forward": "", "bottom": "def helped(x): return [SCALE * each for each in x]"}


def own(gain: float = 1.0, **changes: str) -> LinearOperator:
    """An operator that a user has typed at a prompt: there is no file of it."""
    space: dict[str, object] = {"__name__": "__main__"}
    exec(OWN.format(**{**USUAL, **changes}), space)
    return space["Own"](gain)  # type: ignore[operator]


def test_an_operator_of_the_user_is_known_by_its_attributes_and_its_code() -> None:
    same = [own(), own(), own(top="SCALE = 1.0; OTHER = 2"), own(forward='"""Words."""'), own(forward="# words\n")]
    assert len({digest(each) for each in same}) == 1
    others = [
        *(own(2.0), own(forward="x = 2 * x"), own(attribute="factor = 2.0"), own(top="SCALE = 2.0")),
        own(bottom="def helped(x): return [SCALE + each for each in x]"),
        own(bottom="def helped(x): return deeper(x)\ndef deeper(x): return helped(x)"),
    ]
    assert len({digest(each) for each in [same[0], *others]}) == len(others) + 1
    assert digest({"mixed": [own() @ Identity((2,))]}) != digest({"mixed": [own(top="SCALE = 2.0") @ Identity((2,))]})


def test_what_use_leaves_in_an_operator_of_the_user_decides_nothing() -> None:
    operator = own()
    before = digest(operator)
    operator._cache = torch.ones(3)
    operator._later = {"factor": 1}
    assert digest(operator) == before == digest(own())
    operator.source_shape = (3,)
    assert digest(operator) != before


def test_functions_of_objects_and_what_they_enclose_are_told_apart() -> None:
    @cache
    def kept(x: int) -> int:
        return x

    class Slots:
        __slots__ = ("x",)

        def __init__(self, x: object) -> None:
            self.x = x

        def f(self) -> object:
            return ..., kept(1)

    class Net(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    conv, net = torch.nn.Conv2d(1, 1, 3, padding=1), Net(1, 1, 3, padding=1)
    wide = torch.nn.Conv2d(1, 1, 3, padding=2)
    for other in (net, wide):
        other.load_state_dict(conv.state_dict())
    values = [Slots(1), Slots([2]), Slots(1).f, Slots(2).f, partial(close_over, 1), partial(close_over, 2), conv, net, wide]
    values += [close_over([1]), close_over([2]), close_over({"a": torch.zeros(2)}), lambda x: x[..., 0], lambda x: x[..., 1]]
    digests = [digest(value) for value in values]
    assert len(set(digests)) == len(values) and digests == [digest(value) for value in values]


def test_what_holds_itself_is_refused() -> None:
    ring: list[object] = []
    ring.append(ring)
    with pytest.raises(MvssError, match="holds itself"):
        digest(ring)


def test_what_cannot_be_read_is_refused_by_name() -> None:
    with pytest.raises(MvssError, match=r"a torch.*Generator has no content") as caught:
        digest({"rng": torch.Generator()})
    assert "\n" not in str(caught.value)


def test_parts_that_differ_are_named() -> None:
    one = {"data": digest(1), "settings": digest(Settings()), "stream": digest(Stream(0))}
    assert differing(one, dict(one)) == []
    other = {**one, "settings": digest(replace(Settings(), training=TrainingConfig(steps=1))), "code": "x"}
    assert differing(one, other) == ["settings", "code"] == differing(other, one)
    assert differing({}, one) == ["data", "settings", "stream"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    name = f"sample{abs(hash(request.node.name)) % 10**8}"
    folder = tmp_path / name
    (folder / "deep").mkdir(parents=True)
    texts = {
        "__init__": "",
        "top": f'"""Top."""\nimport torch\nfrom {name}.deep import low\n'
        'def f():\n    """Words."""\n    from .deep.lower import g\n',
        "deep/__init__": "from . import low\n",
        "deep/low": "X = 1\n",
        "deep/lower": "async def g():\n    '''Words.'''\n    return 1\n",
        "apart": "X = 1\n",
    }
    for module, text in texts.items():
        (folder / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_code_is_what_python_sees_of_all_that_is_imported(package: Path) -> None:
    name = package.name

    def code(silent: tuple[str, ...] = ()) -> str:
        code_of.cache_clear()
        _read.cache_clear()
        return code_of(f"{name}.top", packages=(name,), silent=silent)

    assert list(sources_of(f"{name}.top", packages=[name])) == [
        f"{name}.{m}" for m in ("deep", "deep.low", "deep.lower", "top")
    ]
    assert not [module for module in sys.modules if module.startswith(name)]  # read, not imported
    before, without = code(), code((f"{name}.deep.lower",))
    for module, text in {"top": "\n# a comment\n", "deep/lower": "# another\n\n", "apart": "X = 2\n"}.items():
        path = package / f"{module}.py"
        path.write_text(text + path.read_text().replace("Words", "Other words") if module != "apart" else text)
    assert code() == before
    (package / "deep" / "lower.py").write_text("async def g():\n    return 2\n")
    assert code() != before and code((f"{name}.deep.lower",)) == without


def test_an_edit_during_a_run_is_not_what_ran(package: Path) -> None:
    def code() -> str:
        return code_of(f"{package.name}.deep.low", packages=(package.name,))

    before = code()
    (package / "deep" / "low.py").write_text("X = 2\n")
    assert code() == before


def test_code_of_mvss_is_found() -> None:
    found = sources_of("mvss.em")
    assert {"mvss.em", "mvss.posteriors.amortised", "mvss.runtime.rng"} <= set(found)
    assert not {"mvss.separator", "mvss.metrics.transport"} & set(found)


def test_a_field_counts_though_it_is_not_compared_unless_it_decides_nothing() -> None:
    """Arrays are often left out of comparisons, whose results have no truth; they are data all the same."""

    @dataclass
    class Own:
        matrix: torch.Tensor = field(compare=False)
        others: str = field(default="", metadata={"decides": False})

    one, other = torch.eye(2), torch.ones(2, 2)
    assert digest(Own(one)) != digest(Own(other))
    assert digest(Own(one, "a")) == digest(Own(one, "b"))
