"""The command line on a tiny mixture of vectors: what it says, what it writes, how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import click
import h5py
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from tiny_separators import VECTORS, vectors

from mvss import PriorConfig, SourceSeparator
from mvss.cli import program
from mvss.io.arrays import read_array
from mvss.io.results import write_arrays
from mvss.presets.reader import save_config
from mvss.runtime.rng import Stream

ROOT = Path(__file__).parent.parent
MIXTURE = """\
views:
  first: {data: first.npy, sources: {a: {matrix: matrices.npz:own}}, noise: 1e-1}
  both:
    data: both.csv
    sources: {a: {matrix: matrices.npz:shared}, b: {matrix: matrices.npz:other}}
    noise: {each: sigma.npy}
"""


def write_mixture(folder: Path) -> Path:
    """The tiny vectors as files."""
    first, both = vectors().views
    np.save(folder / "first.npy", first.y.numpy())
    np.savetxt(folder / "both.csv", both.y.numpy(), delimiter=",", header="u,v", comments="")
    own, shared, other = (v.operators[s].matrix.numpy() for v, s in ((first, "a"), (both, "a"), (both, "b")))
    np.savez(folder / "matrices.npz", own=own, shared=shared, other=other)
    np.save(folder / "sigma.npy", np.full(len(both), 0.2))
    (folder / "mixture.yaml").write_text(MIXTURE)
    save_config(VECTORS, folder / "tiny.yaml")
    return folder


def call(*words: object) -> Result:
    return CliRunner().invoke(program, [str(word) for word in words])


def said(*words: object) -> dict[str, object]:
    """The one object that a command prints with --json."""
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture and the model of its fit."""
    home = write_mixture(tmp_path_factory.mktemp("mixture"))
    done = call("fit", home / "mixture.yaml", "--out", home / "model", "--preset", home / "tiny.yaml")
    assert done.exit_code == 0, done.output
    assert "chi2 per number: first" in done.stdout and "laps:" in done.stderr
    assert done.stderr.startswith(f"model: {home / 'model'} (")  # named before anything takes time
    return home


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` without the seconds that it needs to look how long a fit will take."""
    monkeypatch.setattr("mvss.cli.check.expected_seconds", lambda *_: {})


def test_check_says_what_is_there_and_what_it_takes(folder: Path) -> None:
    found = said("check", folder / "mixture.yaml", "--preset", folder / "tiny.yaml")
    assert found["sources"]["b"] == {"shape": [2], "observations": 30, "alone_in": []}
    assert found["sources"]["a"]["alone_in"] == ["first"] and found["learned_in_order"] == [["a"], ["b"]]
    shown = found["views"]["both"]["sources"]["a"]
    assert shown == {"operator": "matrix", "lets_through": 2, "of": 3, "kind": "directions"}
    # 2 laps × 2 sources × 4 steps of 8 draws; 2 laps × 70 observations; 2 steps of predictor and corrector
    assert found["work"] == {"laps": 2, "trained_on": 128, "draws": 140, "evaluations_of_a_draw": 4}
    assert 0 < found["memory_gib_at_least"] < 8
    assert list(found["seconds_about"]) == ["first priors", "laps", "last draws"]
    assert all(0 < seconds < 600 for seconds in found["seconds_about"].values())
    text = call("check", folder / "mixture.yaml").stdout
    assert "  a: matrix of each, lets through 3 of its 3 directions, alone" in text
    assert "  a: matrix, lets through 2 of its 3 directions, added to b" in text
    assert "time of a fit: " in text and " on this machine" in text
    assert "source b: shape (2), in 30 observations, never alone" in text and "preset vectors: 3 laps" in text


def test_check_warns_of_what_views_do_not_tell(folder: Path, untimed: None) -> None:
    (folder / "blind.yaml").write_text("views:\n  v: {data: first.npy, sources: {a: identity, b: {scale: 2}}, noise: 0.1}\n")
    done = call("check", folder / "blind.yaml")
    assert done.exit_code == 0 and "warning: a and b are mixed in the same proportion in every view" in done.stdout
    assert "a fit by em may refuse them" in call("check", folder / "blind.yaml", "--preset", "images").stdout
    np.save(folder / "narrow.npy", np.array([[1.0, 0.0], [1.0, 0.0]]))
    (folder / "blind.yaml").write_text("views:\n  v: {data: first.npy, sources: {a: {matrix: narrow.npy}}, noise: 0.1}\n")
    assert "1 directions of a are seen by no view" in said("check", folder / "blind.yaml")["warnings"][-1]


def test_check_warns_of_few_observations(folder: Path, untimed: None) -> None:
    (line,) = said("check", folder / "mixture.yaml")["warnings"]
    assert line.startswith("fewer than 1,000 observations (first has 40, both has 30): ")
    np.save(folder / "many.npy", np.random.default_rng(0).normal(size=(1000, 2)))
    (folder / "many.yaml").write_text("views:\n  v: {data: many.npy, sources: {a: identity}, noise: 0.1}\n")
    assert said("check", folder / "many.yaml")["warnings"] == []


def test_check_warns_of_observations_in_order(folder: Path, untimed: None) -> None:
    np.save(folder / "sorted.npy", np.sort(np.random.default_rng(0).normal(size=(1000, 2)), axis=0))
    (folder / "sorted.yaml").write_text("views:\n  v: {data: sorted.npy, sources: {a: identity}, noise: 0.1}\n")
    (line,) = said("check", folder / "sorted.yaml")["warnings"]
    assert line.endswith("differ from the others in brightness: shuffle them")


def test_check_tells_why_it_cannot_tell_the_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> dict[str, float]:
        raise RuntimeError("singular\nmatrix")

    monkeypatch.setattr("mvss.cli.check.expected_seconds", fails)
    found = said("check", folder / "mixture.yaml", "--preset", folder / "tiny.yaml")
    assert found["seconds_about"] == {} and found["warnings"][-1].endswith("ended so: singular matrix")
    assert "time of a fit" not in call("check", folder / "mixture.yaml", "--preset", folder / "tiny.yaml").stdout


def test_thin_images_are_told_since_they_may_be_signals(tmp_path: Path, untimed: None) -> None:
    text = "views:\n  v: {data: y.npy, sources: {a: identity}, noise: 0.1}\n"
    (tmp_path / "mixture.yaml").write_text(text)
    closed = replace(VECTORS, prior=PriorConfig(network=None))
    save_config(closed, tmp_path / "closed.yaml")
    words = tmp_path / "mixture.yaml", "--preset", tmp_path / "closed.yaml"
    rng = np.random.default_rng(0)
    np.save(tmp_path / "y.npy", rng.normal(size=(20, 1, 4)))
    says = "view v is read as 20 images of 1 × 4 pixels: where they are signals, write data: {signals: file}"
    assert says in said("check", *words)["warnings"]
    assert f"mvss: warning: {says}" in call("fit", *words, "--out", tmp_path / "model").stderr.splitlines()
    np.save(tmp_path / "y.npy", rng.normal(size=(20, 2, 64)))
    for name, more in (("check", ()), ("fit", ("--out", tmp_path / "other"))):
        done = call(name, tmp_path / "mixture.yaml", *more)
        (line,) = done.stderr.splitlines()
        assert done.exit_code == 2 and "multiples of 4, not 2 × 64" in line and "write data: {signals: file}" in line
    assert not (tmp_path / "other").exists()
    np.save(tmp_path / "y.npy", rng.normal(size=(20, 8, 24)))
    assert not any("signals" in line for line in said("check", tmp_path / "mixture.yaml")["warnings"])


@pytest.mark.parametrize(("length", "told"), [(31, False), (32, True)])
def test_long_vectors_are_told_since_they_may_be_signals(length: int, told: bool, tmp_path: Path, untimed: None) -> None:
    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(size=(20, length)))
    (tmp_path / "mixture.yaml").write_text("views:\n  v: {data: y.npy, sources: {a: identity}, noise: 0.1}\n")
    says = f"view v is read as 20 vectors of {length} numbers: where they are signals, write data: {{signals: file}}"
    assert (says in said("check", tmp_path / "mixture.yaml")["warnings"]) == told


def test_check_says_how_much_is_measured(tmp_path: Path, untimed: None) -> None:
    """Which is little where a mask means the contrary."""
    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(size=(20, 4)))
    np.save(tmp_path / "hidden.npy", np.arange(4) == 2)
    shown = "{data: y.npy, sources: {a: {mask: hidden.npy}, b: {product: [{mask: hidden.npy}, {scale: 2}]}}, noise: 0.1}"
    (tmp_path / "mixture.yaml").write_text(
        f"views:\n  v: {shown}\n  w: {{data: y.npy, sources: {{a: identity}}, noise: 0.1}}\n"
    )
    found = said("check", tmp_path / "mixture.yaml")["views"]
    assert found["v"]["measured"] == 0.25 and found["w"]["measured"] == 1
    text = call("check", tmp_path / "mixture.yaml").stdout
    assert "view v: 20 observations of shape (4), 25 % of their numbers measured, noise 0.1\n" in text
    assert "view w: 20 observations of shape (4), noise 0.1\n" in text


def test_views_that_hold_one_number_alone_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.zeros((20, 4)))
    (tmp_path / "mixture.yaml").write_text("views:\n  v: {data: y.npy, sources: {a: identity}, noise: 0.1}\n")
    for name, more in (("check", ()), ("fit", ("--out", tmp_path / "model"))):
        done = call(name, tmp_path / "mixture.yaml", *more)
        (line,) = done.stderr.splitlines()
        assert done.exit_code == 2 and "mixture.yaml:2: views.v: v: every measured number is 0" in line
    assert not (tmp_path / "model").exists()


def test_images_whose_sides_no_network_takes_are_refused_before_anything_is_learned(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(size=(20, 8, 10)))
    (tmp_path / "mixture.yaml").write_text("views:\n  v: {data: y.npy, sources: {a: identity}, noise: 0.1}\n")
    for name, more in (("check", ()), ("fit", ("--out", tmp_path / "model"))):
        done = call(name, tmp_path / "mixture.yaml", *more)
        (line,) = done.stderr.splitlines()
        assert done.exit_code == 2 and "mixture.yaml:1: views: a (in v) has shape (1, 8, 10): a U-Net needs" in line
        assert line.endswith("sides that are multiples of 4, not 8 × 10 (patch=2, blocks=(32, 64)): crop to 8 × 8")


@pytest.mark.parametrize(("length", "instead"), [(63, "crop to 60"), (3, "fill up to 4")])
def test_signals_of_a_length_that_no_network_takes_are_told_what_length_would_do(
    length: int, instead: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "y.npy", np.random.default_rng(0).normal(size=(20, length)))
    shown = "{data: {signals: y.npy}, sources: {a: identity}, noise: 0.1}"
    (tmp_path / "mixture.yaml").write_text(f"views:\n  v: {shown}\n  w: {shown}\n")
    (line,) = call("check", tmp_path / "mixture.yaml").stderr.splitlines()
    assert f"a (in v, w) has shape (1, {length}): a U-Net needs sides that are multiples of 4" in line
    assert f", not {length} (" in line and line.endswith(f": {instead}")


def test_fit_is_that_of_the_library_and_its_command_goes_on(folder: Path) -> None:
    model = SourceSeparator.from_pretrained(folder / "model")
    report = json.loads((folder / "model" / "report.json").read_text())
    views = vectors().views
    again = SourceSeparator(VECTORS).fit(views, verbose=False)
    assert [each["chi2"] for each in report["report"]["views"]] == pytest.approx([v.chi2 for v in again.report.views])
    assert model.sample("a", 3).shape == (3, 3)
    state = folder / "model" / "fit" / "em.safetensors"
    before = state.stat()
    text = (folder / "model" / "report.json").read_bytes()
    found = said("fit", folder / "mixture.yaml", "--out", folder / "model", "--preset", folder / "tiny.yaml")
    assert found["report"]["views"] == report["report"]["views"]
    assert state.stat().st_mtime_ns == before.st_mtime_ns  # no lap again
    assert (folder / "model" / "report.json").read_bytes() == text and found == report  # times are those of the fit
    other = call("fit", folder / "mixture.yaml", "--out", folder / "model", "--preset", folder / "tiny.yaml", "--seed", 1)
    assert other.exit_code == 2 and "is of a run with another seed: take another folder (--out)" in other.stderr
    assert len(other.stderr.splitlines()) == 1  # no word of a model that it does not make


@pytest.mark.parametrize("ending", [".npz", ".h5", ".fits"])
def test_what_is_separated_is_what_the_library_draws(folder: Path, ending: str) -> None:
    out = folder / f"separated{ending}"
    found = said("separate", folder / "model", folder / "mixture.yaml", "--draws", 2, "--out", out)
    assert found["arrays"]["both/b/draws"] == [2, 30, 2] and len(found["arrays"]) == 9
    read = {name: read_array(f"{out}:{name}", Path()) for name in found["arrays"]}
    draws = SourceSeparator.from_pretrained(folder / "model").separate(vectors().views[1], 2, Stream(0, ("separate", "both")))
    for source, x in draws.items():
        np.testing.assert_allclose(read[f"both/{source}/draws"], x.numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(read[f"both/{source}/sd"], x.std(0).numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(read[f"both/{source}/mean"], x.mean(0).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("Neu ü", "w"), "FITS cannot hold the name 'Neu ü/b/draws': write .npz or .h5"),
        (("v", "V"), "FITS does not tell the names 'v/b/draws' and 'V/b/draws' apart: write .npz or .h5"),
    ],
)
def test_names_that_a_file_cannot_hold_are_refused_before_anything_is_drawn(
    folder: Path, names: tuple[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvss.cli.work.read_views", None)  # not even read
    shown = "{data: both.csv, sources: {b: {matrix: matrices.npz:other}}, noise: 0.2}"
    (folder / "named.yaml").write_text("views:\n" + "".join(f"  {name}: {shown}\n" for name in names), encoding="utf-8")
    done = call("separate", folder / "model", folder / "named.yaml", "--out", folder / "named.fits")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"mvss: {folder / 'named.fits'}: {says}\n"
    done = call("sample", folder / "nowhere", "--source", "ä", "--out", folder / "named.fits")
    assert (done.exit_code, done.stdout) == (2, "") and "FITS cannot hold the name 'ä'" in done.stderr


def test_views_of_one_file_are_drawn_independently(folder: Path) -> None:
    """So that what is pooled over them is; also where they show the same."""
    shown = "{data: both.csv, sources: {b: {matrix: matrices.npz:other}}, noise: 0.2}"
    (folder / "twice.yaml").write_text(f"views:\n  p: {shown}\n  q: {shown}\n")
    said("separate", folder / "model", folder / "twice.yaml", "--draws", 40, "--out", folder / "twice.npz")
    p, q = (read_array(f"twice.npz:{name}/b/draws", folder) for name in "pq")
    p, q = ((x - x.mean(0)).ravel() for x in (p, q))
    assert abs(np.corrcoef(p, q)[0, 1]) < 0.1


def test_draws_of_a_prior_are_scored(folder: Path) -> None:
    prior, out = folder / "prior.npz", folder / "score.h5"
    assert said("sample", folder / "model", "--source", "a", "-n", 5, "--out", prior)["arrays"] == {"a": [5, 3]}
    lines = call("score", folder / "model", prior, "--source", "a").stdout.splitlines()
    assert said("score", folder / "model", prior, "--source", "a", "--out", out)["arrays"] == {"log_prob": [5]}
    with h5py.File(out) as file:
        assert [float(line) for line in lines] == pytest.approx(list(file["log_prob"]), rel=1e-4)
    assert said("score", folder / "model", prior, "--source", "a")["log_prob"] == pytest.approx(
        list(map(float, lines)), rel=1e-4
    )
    np.save(folder / "several.npy", np.zeros((4, 2, 3)))
    assert np.shape(said("score", folder / "model", folder / "several.npy", "--source", "a")["log_prob"]) == (4, 2)


def test_a_path_is_a_folder_and_a_name_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a fit has not finished, a model of the same name that comes with the library is none of it."""
    shutil.copytree(folder / "model", tmp_path / "pretrained" / "galaxies")
    monkeypatch.setattr("mvss.posteriors.pretrained.READY", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    words = "--source", "a", "--out", tmp_path / "a.npz"
    done = call("sample", "galaxies", *words)
    assert done.exit_code == 0 and done.stderr == f"model: galaxies is {tmp_path / 'pretrained' / 'galaxies'}\n"
    for name in ("galaxies/", "./galaxies"):
        done = call("sample", name, *words)
        assert done.exit_code == 2 and done.stderr.startswith("mvss: galaxies holds no readable separator.json")
    (tmp_path / "galaxies" / "fit").mkdir(parents=True)
    for command in (("sample", "galaxies", *words), ("score", "galaxies", "a.npz", "--source", "a")):
        done = call(*command)
        assert done.exit_code == 2 and done.stderr.startswith("mvss: galaxies holds no readable separator.json")
    done = call("separate", "galaxies", folder / "mixture.yaml", "--out", "b.npz")
    assert done.exit_code == 2 and done.stderr.startswith("mvss: galaxies holds no readable separator.json")
    assert call("sample", folder / "model", *words).stderr == ""


def test_the_mixtures_of_the_pages_are_some(tmp_path: Path, untimed: None) -> None:
    text = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    least, least_series, gaps, block, series = re.findall(r"^    views:\n(?:      .*\n)+", text, flags=re.MULTILINE)
    images = np.random.default_rng(0).normal(size=(4, 8, 8))
    for name in ("alone", "both", "background"):
        np.save(tmp_path / f"{name}.npy", images)
    for told, preset, shape in ((least, "images", [1, 8, 8]), (least_series, "signals", [8, 8])):
        assert len(told.splitlines()) == 3
        (tmp_path / "mixture.yaml").write_text(dedent(told))
        found = said("check", tmp_path / "mixture.yaml")
        assert found["preset"] == preset and found["sources"]["target"]["shape"] == shape
    (tmp_path / "mixture.yaml").write_text(dedent(gaps))
    np.save(tmp_path / "alone.npy", np.where(np.arange(8) > 1, images, np.nan))
    np.save(tmp_path / "sigma.npy", np.full((8, 8), 0.1))
    assert said("check", tmp_path / "mixture.yaml")["views"]["alone"]["measured"] == 0.75
    np.save(tmp_path / "alone.npy", images)
    (tmp_path / "mixture.yaml").write_text(dedent(block))
    write_arrays(tmp_path / "both.h5", {"stamps": images, "other": images})
    write_arrays(tmp_path / "psf.fits", {"psf": np.ones((3, 3)) / 9})
    found = said("check", tmp_path / "mixture.yaml")
    assert found["preset"] == "images" and found["sources"]["target"]["shape"] == [1, 8, 8]
    assert found["views"]["both"]["sources"]["target"]["operator"] == "psf"
    assert set(re.findall(r"`mvss (\w+)", text)) == set(program.commands)
    (tmp_path / "mixture.yaml").write_text(dedent(series))
    (tmp_path / "response.csv").write_text("0.2,0.6,0.2\n")
    for name in ("quiet", "both"):
        np.save(tmp_path / f"{name}.npy", images[:, 0])
        np.save(tmp_path / f"{name}-seen.npy", np.arange(8) != 3)
    found = said("check", tmp_path / "mixture.yaml")
    assert found["preset"] == "signals" and found["sources"]["pulses"]["shape"] == [1, 8]
    assert found["views"]["both"]["sources"]["pulses"]["operator"] == "mask · response"


WRONG = {
    "chek mixture.yaml": "No such command 'chek'",
    "check": "Missing argument 'MIXTURE'",
    "check mixture.yaml --sed 1": "No such option '--sed'",
    "check nowhere.yaml": "cannot read nowhere.yaml: No such file or directory",
    "check mixture.yaml --preset cpus": "unknown preset 'cpus'",
    "fit mixture.yaml": "Missing option '--out'",
    "fit mixture.yaml --out model --seed x": "'x' is not a valid integer range",
    "fit bad.yaml --out model": "bad.yaml:1: views: must not be empty",
    "separate model mixture.yaml --out a.mat": "a.mat: results are written as .npz, .h5, .zarr, .fits",
    "separate model mixture.yaml --out a.npz --draws 0": "0 is not in the range x>=1",
    "sample model --source a -n many --out a.npz": "'many' is not a valid integer range",
    "score model a.npz --source a --out a.csv": "a.csv: results are written as",
}


def test_a_wrong_command_is_refused_in_one_line_before_anything_slow_is_imported(tmp_path: Path) -> None:
    write_mixture(tmp_path)
    (tmp_path / "bad.yaml").write_text("views: {}\n")
    script = f"""
import sys
from mvss.cli import program
for words in {list(WRONG)}:
    try:
        program(words.split(), prog_name="mvss")
    except SystemExit as end:
        assert end.code == 2, (words, end.code)
print({{"torch", "scipy", "h5py", "astropy"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr
    told = done.stderr.splitlines()
    assert len(told) == len(WRONG), done.stderr
    for line, says in zip(told, WRONG.values(), strict=True):
        assert line.startswith("mvss: ") and says in line


LATER = {
    "separate {home}/nowhere {home}/mixture.yaml --out {home}/a.npz": "holds no readable separator.json",
    "separate {home}/model {home}/others.yaml --out {home}/a.npz": "others.yaml:2: views.v: v shows c, which was not learned",
    "sample {home}/model --source c --out {home}/a.npz": "there is no source 'c': known are a, b",
    "score {home}/model {home}/first.npy --source a": "has shape (40, 2): candidates of a are (N, 3)",
    "score {home}/model {home}/nowhere.npy --source a": "there is no file",
    "score {home}/model {home}/prior.npz --source c": "there is no source 'c'",
    "check {home}/mixture.yaml --preset {home}/stages.yaml": "fewer than the 2 stages",
}


@pytest.mark.parametrize("words", list(LATER))
def test_what_model_and_files_do_not_hold_is_told_in_one_line(folder: Path, words: str) -> None:
    (folder / "others.yaml").write_text("views:\n  v: {data: first.npy, sources: {c: identity}, noise: 1}\n")
    (folder / "stages.yaml").write_text("em: {stages: sequential, laps: [1]}\n")
    done = call(*words.format(home=folder).split())
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("mvss: ") and LATER[words] in line
    assert not (folder / "a.npz").exists()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mvss", "check", "no.yaml"], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mvss: cannot read no.yaml: No such file or directory\n"


@pytest.mark.slow  # three processes that import torch; that a command goes on is tested in this one, too
def test_the_installed_command_ends_on_ctrl_c_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["mvss"].partition(":")
    write_mixture(tmp_path)
    tiny = (tmp_path / "tiny.yaml").read_text()
    assert "laps: 2\n" in tiny
    (tmp_path / "longer.yaml").write_text(tiny.replace("laps: 2\n", "laps: 60\n"))
    command = [sys.executable, "-c", f"import sys; from {module} import {name}; sys.exit({name}())"]
    words = ["fit", "mixture.yaml", "--out", "model", "--preset", "longer.yaml", "--json"]
    with subprocess.Popen(
        [*command, *words], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + 60
        while not (tmp_path / "model" / "fit" / "em.safetensors").exists() and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "mvss: interrupted; the same command goes on where it stopped" in told and "Traceback" not in told
    assert not (tmp_path / "model" / "separator.json").exists()
    monkeypatch.chdir(tmp_path)
    assert len(said(*words[:-1])["report"]["laps"]) == 60


def test_every_command_has_json_and_words_for_each_option() -> None:
    for command in program.commands.values():
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert "--json" in {name for each in options for name in each.opts}
        assert command.help and all(each.help for each in options)


def test_the_shell_completes_commands() -> None:
    done = CliRunner(env={"_MVSS_COMPLETE": "bash_complete", "COMP_WORDS": "mvss s", "COMP_CWORD": "1"}).invoke(
        program, [], prog_name="mvss"
    )
    assert done.exit_code == 0 and {"plain,sample", "plain,score", "plain,separate"} == set(done.stdout.split())


@pytest.mark.parametrize(
    ("sampler", "count"),
    [({"method": "heun"}, 2 * 5 - 1), ({"method": "pc", "corrections": 2}, 5 * 3), ({"method": "ancestral"}, 5)],
)
def test_check_counts_evaluations_and_not_steps(folder: Path, untimed: None, sampler: dict[str, object], count: int) -> None:
    preset = yaml.safe_load((folder / "tiny.yaml").read_text())
    preset["posterior"] = {"kind": "moment_matching", "passes": 2, "sampler": {"steps": 5, **sampler}}
    (folder / "counted.yaml").write_text(yaml.safe_dump(preset))
    found = said("check", folder / "mixture.yaml", "--preset", folder / "counted.yaml")
    assert found["work"]["evaluations_of_a_draw"] == 2 * count
