"""Worked examples: every step at small size, with text that says so; what is learned from is not what is read."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.worked import CLOSED, LEARNED, Example, Result, compared, judged, main

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.parent.name for path in ROOT.glob("examples/*/__main__.py"))


def example_of(name: str) -> Example:
    found: Example = import_module(f"examples.{name}.__main__").EXAMPLE
    return found


@pytest.mark.slow  # `.ci/run` makes the same small runs
@pytest.mark.parametrize("name", NAMES)
def test_every_step_runs_at_small_size(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example, page = example_of(name), (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    main(example, ["--small", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert [line.split()[2] for line in said.splitlines() if line.startswith("$ mvss")] == [
        "check", "fit", "fit", "separate", "separate",
    ]  # fmt: skip
    told = (tmp_path / "learned.md").read_text(encoding="utf-8")
    assert told.startswith("A small run: these numbers mean nothing.") and "nan" not in told
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    assert (ROOT / "examples" / "README.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("name", NAMES)
def test_what_is_published_is_of_a_whole_run(name: str) -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"(?s)<!-- {name}:begin -->\n(.*)<!-- {name}:end -->", page)
    assert block.count("learned priors") == 2 and "mean nothing" not in block
    assert (ROOT / "examples" / name / "picture.png").exists()
    assert f"make {name}" in page


def test_a_small_run_is_not_published(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(example_of(NAMES[0]), ["--small", "--publish"])
    assert "nothing to publish" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_truth_and_noise_add_up_to_what_is_seen(name: str) -> None:
    arrays, truth = example_of(name).make(True)
    contact = arrays.get("new-contact.npy", 1)
    left = arrays["new.npy"] - contact * sum(truth.values())
    noise = float(re.findall(r"noise: ([\d.]+)", (ROOT / "examples" / name / "new.yaml").read_text())[0])
    assert left.std() == pytest.approx(noise * np.mean(contact) ** 0.5, rel=0.05)
    again, _ = example_of(name).make(True)
    assert all(np.array_equal(x, again[key]) for key, x in arrays.items())


def test_words_follow_the_numbers() -> None:
    rng = np.random.default_rng(0)
    truth = {"a": rng.standard_normal((50, 8))}
    posterior = truth["a"] + 0.1 * rng.standard_normal((50, 8))  # of which truth is a draw, too
    near = posterior + 0.1 * rng.standard_normal((32, 50, 8))
    far = posterior + rng.standard_normal((50, 8)) + 0.1 * rng.standard_normal((32, 50, 8))
    good = Result({}, truth, {LEARNED: {"a": near}, CLOSED: {"a": far}})
    bad = Result({}, truth, {LEARNED: {"a": far}, CLOSED: {"a": near}})
    assert good.score(LEARNED, "a").mean == pytest.approx(20, abs=1) and "dB nearer to the truth" in compared(good, "a")
    assert "dB farther from the truth" in compared(bad, "a")
    assert "as near" in compared(Result({}, truth, {LEARNED: {"a": near}, CLOSED: {"a": near}}), "a")
    assert "about as wide as error bars should be" in judged(good, "a")
    assert "too narrow for error bars" in judged(bad, "a")


def test_what_a_source_is_on_average_earns_nothing() -> None:
    truth = torch.randn(50, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 9.0
    mean = truth.mean().expand(4, *truth.shape).numpy()
    score = Result({}, {"a": truth.numpy()}, {LEARNED: {"a": mean}}).score(LEARNED, "a")
    assert score.mean == pytest.approx(0, abs=1e-9) == score.single
