"""A job is stale when what it receives has changed, or code that it can run; nothing else makes it so."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.core import scheduler
from experiments.core.cache import ROOT, _schemas, code_key, estimate_key, received, settings_key
from experiments.core.cli import read_command
from experiments.core.config import Config, Job
from experiments.core.experiment import Named
from experiments.core.places import jobs_of, key_of
from experiments.galaxies.__main__ import EXPERIMENT as GALAXIES
from experiments.galaxies.config import GalaxiesConfig
from experiments.manifolds.__main__ import EXPERIMENT
from mvss.presets.estimation import AscentConfig
from mvss.presets.reader import load_config, save_config
from mvss.presets.reader import plain as plain_values
from mvss.presets.settings import Settings
from mvss.runtime import fingerprint
from mvss.runtime.errors import MvssError

CACHES = (fingerprint.code_of, fingerprint._read, fingerprint._file)
BASELINES = {"pcpca", "clvm_linear", "clvm_vae"}


def jobs(*overrides: str) -> dict[str, Job]:
    command = read_command(EXPERIMENT, ["--preset", "smoke", "--", "problems=[contrastive-2]", *overrides], ROOT)
    return {job.method: job for job in jobs_of(command.config, [0])}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The code of the project, to be changed: keys are those of the copy."""
    for package in ("mvss", "experiments"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=lambda folder, names: [n for n in names if n == "__pycache__"]
        )
    spec = fingerprint.find_spec
    found = {name: spec(name) for name in ("mvss", "experiments")}
    for name, one in found.items():
        assert one is not None
        one.submodule_search_locations = [str(tmp_path / name)]
    monkeypatch.setattr(fingerprint, "find_spec", found.get)
    for function in CACHES:
        function.cache_clear()
    yield tmp_path
    for function in CACHES:
        function.cache_clear()


def codes() -> dict[str, str]:
    for function in CACHES:
        function.cache_clear()
    return {name: code_key(job, EXPERIMENT.data) for name, job in jobs().items()}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_a_change_of_code_makes_stale_the_jobs_that_can_run_it_and_no_others(copy: Path) -> None:
    before = codes()

    def stale() -> set[str]:
        nonlocal before
        now, old = codes(), before
        before = now
        return {name for name, key in now.items() if key != old[name]}

    assert set(before) == BASELINES | {"exact", "mixture", "joint", "gibbs"} and stale() == set()
    edit(copy / "mvss/baselines/clvm.py", "history_size=20", "history_size=21")
    assert stale() == {"clvm_linear", "clvm_vae"}
    edit(copy / "mvss/baselines/config.py", "background: int = 4", "background: int = 5")
    assert stale() == BASELINES  # whose settings it holds
    edit(copy / "mvss/baselines/contrast.py", "import math\n", "import math as math\n")
    assert stale() == BASELINES
    (copy / "mvss/posteriors/gibbs.py").open("a").write("\nNOTHING = 0\n")
    assert stale() == {"gibbs"}
    for name in ("by_em", "mixture_em", "mixture_moments", "noisier2noise"):
        (copy / f"mvss/estimation/{name}.py").open("a").write("\nNOTHING = 0\n")
    assert stale() == set()  # all of them start from an ascent, or from nothing
    (copy / "mvss/estimation/evidence_gradient.py").open("a").write("\nNOTHING = 0\n")
    assert stale() == {"mixture", "joint", "gibbs"}
    (copy / "experiments/core/calibration.py").open("a").write("\nNOTHING = 0\n")
    assert stale() == set(before)
    (copy / "experiments/report/tables.py").open("a").write("\nNOTHING = 0\n")
    (copy / "experiments/core/loop.py").open("a").write("\nNOTHING = 0\n")
    assert stale() == set()


def test_comments_docstrings_and_layout_make_nothing_stale(copy: Path) -> None:
    before = codes()
    for name in (
        "mvss/baselines/clvm.py",
        "mvss/posteriors/gibbs.py",
        "experiments/core/run.py",
        "experiments/manifolds/data.py",
    ):
        text = (copy / name).read_text()
        (copy / name).write_text(text.replace('"""', '"""In other words: ', 1) + "\n# And so on.\n")
    assert codes() == before


def test_two_sizes_of_a_guess_are_two_jobs() -> None:
    """Their network is in a group of settings that the default lacks, and of a class that the default is not."""

    def keys(blocks: str) -> set[str]:
        pairs = f"{{kind: em, noisier2noise: {{network: {{blocks: {blocks}}}}}}}"
        command = read_command(GALAXIES, ["--preset", "smoke", "--", f"methods.joint.settings.estimation={pairs}"], ROOT)
        own = next(job for job in jobs_of(command.config, [0]) if job.method == "joint")
        return {settings_key(own, GALAXIES.data), estimate_key(own, GALAXIES.data)}

    assert not keys("[8]") & keys("[32, 64, 128]") and keys("[32, 64, 128]") == keys("[32, 64, 128]")


def test_a_value_counts_whatever_the_default_of_its_class_is() -> None:
    """Settings that say the same by two ways are one; every value that a job receives is in its key."""
    plain, told = jobs()["joint"], jobs("settings.posterior.passes=1", "metrics.kl_sigma=0.05")["joint"]
    assert settings_key(plain, EXPERIMENT.data) == settings_key(told, EXPERIMENT.data)
    for changed in ("settings.posterior.passes=2", "metrics.draws=2", "settings.em.guess={steps: 3}"):
        assert settings_key(jobs(changed)["joint"], EXPERIMENT.data) != settings_key(plain, EXPERIMENT.data)


def test_a_job_receives_nothing_that_is_for_others() -> None:
    own, other = (received(jobs(*more)["pcpca"]) for more in ((), ("settings.em.laps=9", "audit.draws=9", "workers=3")))
    assert own == other and own.config.methods == {} and own.recipe.problems is None
    audited = received(replace(jobs("audit.draws=9")["joint"], audit=True))
    assert audited.config.audit.draws == 9


def test_settings_of_a_problem_are_for_its_jobs_alone(tmp_path: Path) -> None:
    text = """
    settings: {estimation: {kind: ascent, steps: 20}}
    methods:
      joint: {by_problem: {surfaces: {estimation: {floor: 2.0}}}}
      mixture: {settings: {prior: {network: null}}, by_problem: {surfaces: {estimation: {floor: 2.0}}}}
      pcpca: {problems: [contrastive-2], pcpca: {}}
    """
    (tmp_path / "own.yaml").write_text(text)
    (tmp_path / "plain.yaml").write_text(text.replace("floor: 2.0", "floor: 0.3"))
    own, plain = (load_config(Config, tmp_path / f"{name}.yaml") for name in ("own", "plain"))
    for method in ("joint", "mixture"):
        there, before, curve = own.job("surfaces", method, 0), plain.job("surfaces", method, 0), own.job("mixed-0.1", method, 0)
        assert getattr(there.recipe.settings.estimation, "floor", None) == 2.0
        assert there.recipe.settings == merge_of(curve.recipe.settings, floor=2.0)  # the rest is the method's own
        assert settings_key(there, EXPERIMENT.data) != settings_key(before, EXPERIMENT.data)
        assert settings_key(curve, EXPERIMENT.data) == settings_key(plain.job("mixed-0.1", method, 0), EXPERIMENT.data)
    save_config(own, tmp_path / "saved.yaml")
    again = load_config(Config, tmp_path / "saved.yaml")
    assert plain_values(again) == plain_values(own)


@pytest.mark.parametrize(
    "recipe, message",
    [
        ("{by_problem: {surfaces: {estimaton: {floor: 2.0}}}}", "'methods.joint.by_problem.surfaces.estimaton'"),
        ("{by_problem: [surfaces]}", "'methods.joint.by_problem'"),
        ("{by_problem: {surface: {}}}", "unknown problem 'surface'"),
        ("{pcpca: {}, by_problem: {surfaces: {}}}", "method joint: by_problem is of methods that learn"),
    ],
)
def test_what_is_wrong_in_settings_of_a_problem_is_told(recipe: str, message: str) -> None:
    with pytest.raises(MvssError, match=re.escape(message)):
        read_command(EXPERIMENT, ["--preset", "smoke", "--", f"methods.joint={recipe}"], ROOT)


def test_a_fit_that_differs_by_problem_is_not_borrowed() -> None:
    joint = "methods.joint={by_problem: {surfaces: {}}}"
    with pytest.raises(MvssError, match="fit=joint differ by problem"):
        read_command(EXPERIMENT, ["--preset", "smoke", "--", joint, "methods.gibbs={fit: joint}"], ROOT)


def merge_of(settings: Settings, floor: float) -> Settings:
    assert isinstance(settings.estimation, AscentConfig)
    return replace(settings, estimation=replace(settings.estimation, floor=floor))


def test_what_is_run_is_what_the_key_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(scheduler, "work_of", lambda _: lambda own, *rest: seen.append(own) or {})
    monkeypatch.setattr(Named, "__call__", lambda _, *arguments: seen.append(arguments[-1]))
    job = jobs()["pcpca"]
    scheduler._work(EXPERIMENT, job, tmp_path, key_of(EXPERIMENT, job), "unknown", lambda *_: None)
    assert seen == [received(job).config, received(job)] != [job.config, job]


def test_every_class_of_settings_is_known_by_its_module() -> None:
    assert _schemas(GalaxiesConfig) >= {
        "experiments.core.config",
        "experiments.galaxies.config",
        "mvss.baselines.config",
        "mvss.presets.estimation",
        "mvss.presets.posterior",
        "mvss.presets.settings",
        "mvss.presets.training",
    }
