"""Models to try: made of finished runs alone, with cards that the hub reads; the demo that shows them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from tiny_separators import SHAPE, images

import experiments.core.places as places
import experiments.pretrained.build as building
import experiments.pretrained.demo as demo
import mvss.posteriors.pretrained as pretrained
from experiments.core.cli import ROOT, read_command
from experiments.core.config import Job
from experiments.core.finished import finish
from experiments.core.records import Records
from experiments.core.reporting import report
from experiments.manifolds.__main__ import EXPERIMENT as MANIFOLDS
from experiments.pretrained import pictures
from experiments.pretrained.models import SHOWN, Fresh, Shown, fresh, half_hidden
from mvss import Identity, MvssError, SourceSeparator, View
from mvss.estimation import Estimate
from mvss.priors.gaussian_mixture import GaussianMixture

EXPERIMENT = replace(MANIFOLDS, figures=lambda results: [])
SCORES = {"energy_score": 0.25, "spread_ratio": 0.75, "posterior_psnr": 30.0}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHOWN, "manifolds", replace(SHOWN["manifolds"], compared=16))
    monkeypatch.setitem(demo.OBSERVATIONS, "manifolds", 8)
    monkeypatch.setattr(building, "DRAWS", 4)
    monkeypatch.setattr(demo, "DRAWS", 2)
    monkeypatch.setattr(Shown, "load", lambda shown: EXPERIMENT)


def curves() -> SourceSeparator:
    """Of the true curves, with networks that have learned nothing."""
    config = read_command(EXPERIMENT, ["--preset", "smoke"], ROOT).config
    task = EXPERIMENT.task("contrastive-2", 0, replace(config, observations=4, fresh=4))
    estimate = Estimate(dict(zip(task.train.sources, task.exact_priors(), strict=True)))
    return SourceSeparator(config.methods["joint"].settings).begin(task.train, estimate, 0)


def finished(root: Path, done: bool = True) -> Path:
    """The folder of a run of the preset smoke."""
    config, folder = read_command(EXPERIMENT, ["--preset", "smoke"], ROOT).config, root / "manifolds" / "smoke"
    job = Job("contrastive-2", "joint", 0, config.methods["joint"], config)
    place = places.place_of(job, folder)
    curves().save_pretrained(place / "separator")
    for source in ("1", "2"):
        for metric, value in SCORES.items():
            score = {"source": source, "metric": metric, "split": "fresh", "lap": None, "value": value, "samples": 2}
            Records(place / "records.jsonl").append({"seed": 0, "problem": job.problem, "method": job.method, **score})
    finish(job, folder, 2 * len(SCORES), places.key_of(EXPERIMENT, job), "abc1234")
    report(EXPERIMENT, config, (0,), folder)
    if not done:
        (place / "done").unlink()
    return folder


def test_a_finished_run_becomes_a_model_with_a_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "pretrained"
    assert building.main([str(finished(tmp_path))], target) == 0
    assert "in half precision" in capsys.readouterr().out
    monkeypatch.setattr(pretrained, "READY", target)
    model = SourceSeparator.from_pretrained("manifolds")
    assert model.sources == ("1", "2")
    card = ModelCard.load(target / "manifolds" / "README.md")
    found = {(each.metric_type, each.metric_name[-1]): each.metric_value for each in card.data.eval_results}
    assert found == {(metric, source): value for metric, value in SCORES.items() for source in "12"}
    assert card.data.license == "mit" and card.data.library_name == "mvss"
    text = card.text
    assert "make manifolds PRESET=smoke PROBLEM=contrastive-2 METHODS=joint SEEDS=0" in text
    assert 'from_pretrained("manifolds")' in text and "spread ratio of `1` 0.75" in text and "carries no rights" in text
    assert all(len(line) <= 120 for line in text.splitlines())
    assert {path.suffix for path in target.rglob("*") if path.is_file()} == {".md", ".json", ".safetensors"}
    assert building.main([str(tmp_path / "manifolds" / "smoke")], target) == 0  # over what is there
    assert len(list((target / "manifolds").iterdir())) == 3


def test_where_half_precision_changes_scores_all_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "UNCHANGED", -10.0)
    place = building.build(finished(tmp_path), tmp_path / "pretrained")
    read, whole = SourceSeparator.from_pretrained(place), curves()
    weights = zip(read.priors["1"].network.parameters(), whole.priors["1"].network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    assert "kept in full precision" in (place / "README.md").read_text()


def test_what_makes_no_model_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "pretrained"
    undone = finished(tmp_path, done=False)
    for folder, says in (
        (undone, "contrastive-2 joint seed 0 is not finished: run it to its end"),
        (tmp_path / "manifolds" / "cpu", "holds no finished run of seed 0: make manifolds PROBLEM=contrastive-2"),
        (tmp_path / "others" / "cpu", "no model to try is made of others: name a run of manifolds, mnist_grass, galaxies"),
    ):
        assert building.main([str(folder)], target) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
    assert not target.exists()
    with pytest.raises(MvssError, match="of the preset smoke, which has learned nothing"):
        building.build(undone, pretrained.READY)


@pytest.mark.filterwarnings("ignore:view 2. chi2")  # its networks have learned nothing
def test_the_demo_shows_what_is_there_and_tells_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "READY", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert demo.main(tmp_path / "out") == 2
    assert "there is no model to show" in capsys.readouterr().err and not (tmp_path / "out").exists()
    curves().save_pretrained(tmp_path / "manifolds")
    assert demo.main(tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "galaxies: not shown, since the model galaxies is not in" in said and str(tmp_path / "out" / "index.html") in said
    page = (tmp_path / "out" / "index.html").read_text()
    (alt,) = re.findall(r'<img src="manifolds.png" alt="([^"]+)"', page)
    assert len(alt.split()) >= 5 and page.count("Not shown:") == 2
    assert (tmp_path / "out" / "manifolds.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:both. chi2")  # its networks have learned nothing
def test_images_are_shown_whole_and_half_hidden(tmp_path: Path) -> None:
    problem = images()
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 64), 0.1 * torch.eye(64)[None], 0.1, SHAPE)
    model = SourceSeparator(problem.settings).begin(problem.views, Estimate({"sky": prior, "target": prior}), 0)
    truth = {"sky": torch.zeros(6, *SHAPE).double(), "target": torch.ones(6, *SHAPE).double()}
    page = demo.Page()
    demo.show(SHOWN["galaxies"], model, Fresh(problem.views[1].select(slice(6)), truth), tmp_path, page)
    assert [(s.seen, s.source) for s in page.scores] == [(seen, s) for seen in (demo.ALL, demo.HALF) for s in truth]
    assert len(page.pictures) == 1 and (tmp_path / "galaxies.png").exists()
    assert "half of the pixels hidden  target" in demo.table(page.scores)


def test_half_of_the_numbers_are_hidden_in_all_observations() -> None:
    observed = fresh(SHOWN["manifolds"], 8)
    assert observed.view.sources == ("1", "2") and {len(x) for x in observed.truth.values()} == {8}
    hidden = half_hidden(images().views[1])
    gone = hidden.y == 0
    assert torch.equal(gone.all(0), gone.any(0)) and 0.25 < float(gone.double().mean()) < 0.75


COMMITTED = sorted(path.parent for path in pretrained.READY.glob("*/separator.json"))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda folder: folder.name)
def test_a_committed_model_is_whole_small_and_told_of(folder: Path) -> None:
    model, card = SourceSeparator.from_pretrained(folder.name), ModelCard.load(folder / "README.md")
    assert folder.name in pretrained.MODELS and all(f"`{source}` (" in card.text for source in model.sources)
    assert "PRESET=cpu" in card.text and card.data.eval_results and "## Data and licence" in card.text
    assert building.size_of(pretrained.READY) <= building.LARGEST
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".md", ".json", ".safetensors"}


@pytest.mark.parametrize("count", [3, 7])
def test_pictures_have_as_many_columns_as_there_are_observations(count: int) -> None:
    """Five at most."""
    here, x = Identity((1, 4, 4)), torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    part = pictures.Part(
        "all",
        View(2 * x, {"grass": here, "digit": here}, 0.1),
        {"grass": x.expand(2, *x.shape), "digit": x.expand(2, *x.shape)},
    )
    truth = {"grass": x, "digit": x}
    figure, _ = pictures.images(pictures.Separated("mnist-grass", [part], truth, part.draws))
    (block,) = figure.subfigs
    assert len(block.axes) == (1 + 4 * 2) * min(count, 5)
