"""The experiments' common command line: what it refuses, what is stale, what survives a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import run_here

from experiments.core import scheduler as pool
from experiments.core.cache import ROOT, estimate_key, received, settings_key, work_of
from experiments.core.cli import main, read_command
from experiments.core.config import Job
from experiments.core.finished import begin, finish, is_done
from experiments.core.forecast import next_of
from experiments.core.growth import measure_growth
from experiments.core.places import estimate_path, jobs_of, place_of
from experiments.core.records import Records, read_records
from experiments.core.scheduler import _forget_if_stale, planned
from experiments.core.sweep import sweep
from experiments.core.task import Task
from experiments.galaxies.__main__ import EXPERIMENT as GALAXIES
from experiments.galaxies.separate import main as separate
from experiments.manifolds.__main__ import EXPERIMENT
from mvss.runtime.errors import MvssError
from mvss.runtime.locks import locked

TINY = [
    "problems=[contrastive-2]",
    "observations=128",
    "settings.training.steps=4",
    "settings.estimation={components: [2], steps: 4, starts: 1}",
    "settings.posterior.sampler.steps=2",
    "settings.separation.sampler.steps=2",
    "fresh=128",
    "metrics.paper_sinkhorn=32",
    "metrics.kl=0",
    "metrics.pqmass=64",
    "metrics.references=10",
    "metrics.tessellations=4",
    "workers=1",
]
MACHINE = ("seconds", "memory")  # metrics that differ between two runs


def call(root: Path, *arguments: str) -> int:
    return main(EXPERIMENT, list(arguments), root)


def written(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def jobs(*overrides: str) -> dict[str, Job]:
    command = read_command(EXPERIMENT, ["--preset", "smoke", "--", *overrides], ROOT)
    return {job.method: job for job in jobs_of(command.config, [0]) if job.problem == "contrastive-2"}


def keys(*overrides: str) -> dict[str, str]:
    return {name: settings_key(job, EXPERIMENT.data) for name, job in jobs(*overrides).items()}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--preset", "cpus"], "unknown preset 'cpus'"),
        (
            ["--preset", "gpu", "--ablations"],
            "the preset gpu has nothing under ablations: take another one",
        ),
        (["--preset", "smoke", "--", "settings.em.lap=3"], "did you mean 'laps'"),
        (["--preset", "smoke", "--", "settings.em.laps=many"], "settings.em.laps"),
        (["--preset", "smoke", "--", "settings.em.laps"], "malformed override"),
        (["--preset", "smoke", "--", "problems=[mixed-0.2]"], "unknown problem 'mixed-0.2'; did you mean"),
        (["--preset", "smoke", "--", "em.laps=3"], "unknown key 'em'"),
        (["--preset", "smoke", "--", "methods.joint.settings.em.lap=3"], "did you mean 'laps'"),
        (["--preset", "smoke", "--", "methods.joint={settings: {em: {lap: 3}}}"], "did you mean 'laps'"),
        (["--preset", "smoke", "--", "settings.posterior.kind=exakt"], "did you mean 'exact'"),
        (["--preset", "smoke", "--", "methods.joint.pcpca={}", "methods.joint.model=x"], "either pcpca, clvm or model"),
        (["--preset", "smoke", "--", "metrics.sinkhorn=4096"], "metrics.sinkhorn=4096 needs as many draws"),
        (["--preset", "smoke", "--", "fresh=64"], "there are fresh=64"),
        (["--preset", "smoke", "--", "metrics.references=1000"], "metrics.references=1000 needs 4000 points"),
    ],
)
@pytest.mark.parametrize("command", [main, lambda e, a, r: measure_growth(e, ("contrastive-2",), a, r)])
def test_bad_input_is_one_line_and_nothing_is_written(
    command: Callable[..., int],
    arguments: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(EXPERIMENT, arguments, tmp_path) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and says in error
    assert written(tmp_path) == []


def test_a_dry_run_lists_the_jobs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "--preset", "smoke", "--seeds", "0", "7", "0", "--dry-run", "--", "problems=[mixed-0.1]") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"results: {tmp_path / 'results' / 'runs' / 'manifolds' / 'smoke'}")
    assert "seeds 0 7: 8 of 8 jobs to run, " in lines[1]
    assert "  mixed-0.1 joint seed 7" in lines and len(lines) == 10
    assert written(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["--methods", "joint"], {"mixed-0.1 joint", "contrastive-2 joint"}),
        (["--problem", "contrastive-2", "--methods", "joint", "pcpca"], {"contrastive-2 joint", "contrastive-2 pcpca"}),
        (["--problem", "mixed-0.1"], {f"mixed-0.1 {method}" for method in ("exact", "mixture", "joint", "gibbs")}),
        (["--audit", "--problem", "mixed-0.1", "--methods", "exact"], {"mixed-0.1 exact", "mixed-0.1 exact audit"}),
    ],
)
def test_only_what_is_named_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], runs: set[str]) -> None:
    assert call(tmp_path, "--preset", "smoke", "--dry-run", *words) == 0
    assert {line.strip().replace(" seed 0", "") for line in capsys.readouterr().out.splitlines()[2:]} == runs


def test_an_audit_runs_the_methods_that_it_is_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tmp_path, "--preset", "smoke", "--dry-run", "--audit") == 0
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()[2:]} == {"exact", "mixture", "joint"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--methods", "jont"], "unknown method 'jont': did you mean 'joint'"),
        (["--problem", "mixed-0.2"], "unknown problem 'mixed-0.2'"),
        (["--problem", "mixed-0.9"], "this command runs nothing of mixed-0.9 there"),
        (["--methods", "pcpca", "joint", "--problem", "mixed-0.1"], "this command runs nothing of pcpca there"),
    ],
)
def test_what_is_named_and_not_there_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert call(tmp_path, "--preset", "smoke", *words) == 2
    assert says in capsys.readouterr().err and written(tmp_path) == []


def test_a_setting_makes_stale_the_jobs_that_it_matters_to_and_no_others() -> None:
    base = keys()

    def changed(*overrides: str) -> set[str]:
        return {name for name, key in keys(*overrides).items() if key != base[name]}

    every, baselines = set(base), {"pcpca", "clvm_linear", "clvm_vae"}
    trained = every - {"exact", "mixture"} - baselines
    assert changed("settings.em.laps=3") == trained == {"joint", "gibbs"}
    assert changed("settings.em.held_out=0.1") == trained | {"mixture"}  # held out from first priors, too
    assert changed("settings.training.steps=41") == changed("settings.prior.network.hidden=[16]") == trained
    # those of the method that has them, of another kind, or without a choice
    assert changed("settings.posterior.sampler.steps=5") == every - {"exact", "gibbs"} - baselines
    assert changed("settings.separation.components=3") == every - {"exact", "gibbs"} - baselines
    assert changed("methods.pcpca.pcpca.gamma=0.5") == {"pcpca"}
    assert changed("methods.pcpca.problems=null") == changed("audit.draws=9") == set()
    assert changed("methods.gibbs.settings.posterior.rounds=2") == {"gibbs"}
    assert changed("methods.gibbs.settings.estimation.steps=61") == {"gibbs"}
    assert changed("settings.estimation.steps=61") == {"mixture", "joint", "gibbs"}
    assert changed("settings.estimation.components=[3]") == {"mixture", "joint"}
    assert changed("methods.joint.share=0.5") == changed("methods.joint.clean=true") == {"joint"}
    assert changed("observations=513") == changed("metrics.sinkhorn=127") == every
    assert changed("workers=1") == changed("problems=[contrastive-2]") == set()
    # a method with laps of its own does not heed those of all
    own = "methods.joint.settings.em.laps=3"
    assert keys(own)["joint"] == keys(own, "settings.em.laps=9")["joint"] != base["joint"]


def test_jobs_that_share_first_priors_agree_on_what_makes_them_stale() -> None:
    def key(job: Job) -> str:
        return estimate_key(job, EXPERIMENT.data)

    own = jobs()
    assert key(own["mixture"]) == key(own["joint"]) == key(replace(own["joint"], audit=True)) != key(own["gibbs"])
    for other in ("settings.estimation.steps=61", "observations=513", "methods.joint.share=0.5", "methods.joint.clean=true"):
        assert key(jobs(other)["joint"]) != key(own["joint"])
    for other in ("settings.em.laps=3", "settings.posterior.components=2", "fresh=257", "methods.gibbs.settings.em.laps=3"):
        assert key(jobs(other)["joint"]) == key(own["joint"])


def test_who_waits_for_whom(tmp_path: Path) -> None:
    """First priors are made once, an audit waits for its method, a baseline for nobody."""
    own = jobs()
    audit = replace(own["joint"], audit=True)
    mixture, joint, gibbs, pcpca, audited = planned(
        EXPERIMENT, [*(own[m] for m in ("mixture", "joint", "gibbs", "pcpca")), audit], tmp_path
    )
    assert next_of([joint, pcpca], [mixture], Path.exists) == pcpca
    assert next_of([gibbs], [mixture], Path.exists) == gibbs
    assert next_of([joint], [mixture], Path.exists) is None
    assert next_of([audited], [joint], Path.exists) is None and next_of([audited], [], Path.exists) == audited
    made = estimate_path(EXPERIMENT, own["joint"], tmp_path)
    made.parent.mkdir(parents=True)
    made.write_bytes(b"")
    assert next_of([joint], [mixture], Path.exists) == joint


class _Stop(Exception):
    pass


SHARED = "methods.gibbs={fit: joint, settings: {separation: {kind: split_gibbs, levels: 2, steps: 1}}}"


def test_a_method_may_separate_by_the_fit_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(monkeypatch)
    assert call(tmp_path, "--preset", "smoke", "--methods", "gibbs", "--", SHARED, *TINY) == 0
    assert "2 of 2 jobs to run" in capsys.readouterr().out
    rows = {(r["method"], r["metric"]): r["mean"] for r in json.loads(next(tmp_path.rglob("table.json")).read_text())["rows"]}
    assert rows["joint", "posterior_psnr"] != rows["gibbs", "posterior_psnr"]
    assert ("joint", "prior_sinkhorn_paper") in rows and ("gibbs", "prior_sinkhorn_paper") not in rows
    before, levels, fit = (
        {m: settings_key(j, EXPERIMENT.data) for m, j in jobs(SHARED, *more).items() if m in ("joint", "gibbs")}
        for more in ((), ("methods.gibbs.settings.separation.levels=3",), ("methods.joint.settings.training.steps=5",))
    )
    assert levels["joint"] == before["joint"] and levels["gibbs"] != before["gibbs"]
    assert fit["joint"] != before["joint"] and fit["gibbs"] != before["gibbs"]


def test_who_looks_at_a_fit_waits_for_it() -> None:
    found = jobs(SHARED)
    joint, shared, mixture = found["joint"], found["gibbs"], found["mixture"]
    assert shared.fitted == joint and joint.fitted is joint and replace(shared, audit=True).fitted == joint
    fit, looks, other = planned(EXPERIMENT, [joint, shared, mixture], Path())
    assert next_of([looks, other], [fit], Path.exists) is None  # other first priors, which the fit makes, are the same
    assert next_of([looks, other], [fit], lambda _: True) == other and next_of([looks], [fit], Path.exists) is None
    assert next_of([looks], [], Path.exists) == looks


def test_what_looks_at_a_fit_goes_with_it(tmp_path: Path) -> None:
    found = jobs(SHARED)
    every = [found["joint"], replace(found["joint"], audit=True), found["gibbs"], found["mixture"]]
    for job in every:
        begin(job, tmp_path, "before")
    _forget_if_stale(found["gibbs"], tmp_path, "before")
    assert all((place_of(job, tmp_path) / "key").exists() for job in every)
    _forget_if_stale(found["joint"], tmp_path, "after")
    assert [(place_of(job, tmp_path) / "key").exists() for job in every] == [True, False, False, True]


@pytest.mark.parametrize("fit", ["none", "pcpca", "gibbs"])
def test_a_fit_that_there_is_not_is_refused(fit: str, tmp_path: Path) -> None:
    with pytest.raises(MvssError, match=f"method gibbs: fit={fit} must be another method"):
        read_command(EXPERIMENT, ["--preset", "smoke", "--", f"methods.gibbs={{fit: {fit}}}"], tmp_path)


def _run(job: Job, task: Task, folder: Path, stop: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
    """One job in this process; `stop` ends it at a record, as a kill would."""
    records = Records(folder / "records.jsonl")

    def append(record: dict[str, Any]) -> None:
        records.append(record)
        if stop is not None and stop(record):
            raise _Stop

    saved = work_of(job)(received(job), task, folder, append, lambda *_: None, estimate_path(EXPERIMENT, job, folder.parent))
    return {name: array.tobytes() for name, array in saved.items()}


def _latest(folder: Path) -> dict[tuple[Any, ...], float]:
    return {
        (r["source"], r["metric"], r["split"], r["lap"]): r["value"]
        for r in read_records(folder / "records.jsonl")
        if not any(word in r["metric"] for word in MACHINE)
    }


Whole = tuple[Job, Task, Path, dict[str, Any]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A job, its task, its folder and what it has kept."""
    job = jobs(*TINY)["joint"]
    task = EXPERIMENT.task(job.problem, job.seed, job.config)
    whole = tmp_path_factory.mktemp("whole") / "joint"
    return job, task, whole, _run(job, task, whole)


def test_first_priors_are_shared_whatever_share_is_held_out(tmp_path: Path) -> None:
    """Also with methods that have no network, and so no laps of their own."""
    mixture, joint = (jobs(*TINY, "settings.em.held_out=0.0")[method] for method in ("mixture", "joint"))
    task = EXPERIMENT.task(joint.problem, joint.seed, joint.config)
    for job in (mixture, joint):
        _run(job, task, tmp_path / job.method)
    assert len(list(tmp_path.rglob("estimate-*.safetensors"))) == 1


@pytest.mark.parametrize("metric", ["posterior_sinkhorn", "prior_sinkhorn"])  # in the middle of a lap; in the scoring
def test_a_job_that_was_stopped_goes_on_to_the_same_records_and_figures(
    metric: str, uninterrupted: Whole, tmp_path: Path
) -> None:
    job, task, whole, saved = uninterrupted
    broken = tmp_path / "joint"
    with pytest.raises(_Stop):
        _run(job, task, broken, lambda r: r["metric"] == metric and r["lap"] in (2, None))
    assert [path.name for path in broken.glob("*.safetensors")] == ["em.safetensors"]  # one state, which cannot disagree
    assert _run(job, task, broken) == saved
    assert _latest(broken) == _latest(whole)
    assert _latest(whole)["mean", "network_evaluations", "fresh", None] > 0


def _start(root: Path, *overrides: str) -> subprocess.Popen[bytes]:
    script = (
        "import sys; from pathlib import Path; from experiments.manifolds.__main__ import EXPERIMENT\n"
        "from experiments.core.cli import main\n"
        "sys.exit(main(EXPERIMENT, sys.argv[2:], Path(sys.argv[1])))"
    )
    arguments = ["--preset", "smoke", "--", *TINY, *overrides]
    return subprocess.Popen([sys.executable, "-c", script, str(root), *arguments], cwd=ROOT, start_new_session=True)


def _metrics(root: Path) -> list[dict[str, Any]]:
    (path,) = root.rglob("metrics.jsonl")
    return [r for r in read_records(path) if not any(word in r["metric"] for word in MACHINE)]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_metrics_with_the_same_command(tmp_path: Path) -> None:
    overrides = ("settings.em.laps=3", "settings.training.steps=60")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = _start(killed, *overrides)
    try:
        deadline = time.monotonic() + 120
        while not list(killed.rglob("joint/em.safetensors")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert list(killed.rglob("joint/em.safetensors")) and not list(killed.rglob("joint/done"))
    assert not list(killed.rglob("table.json"))
    assert _start(killed, *overrides).wait(120) == 0
    assert _start(whole, *overrides).wait(120) == 0
    assert _metrics(killed) == _metrics(whole)
    methods = {record["method"] for record in _metrics(killed)}
    assert {"exact", "mixture", "joint", "gibbs"} <= methods
    # overrides have a folder of their own; the preset's own results are not there, so nothing was overwritten
    (table,) = whole.rglob("table.json")
    assert table.parent.parent == whole / "results" / "runs" / "manifolds" / "smoke"
    assert table.parent.name.startswith("overrides-")
    assert json.loads(table.read_text())["command"].endswith('settings.em.laps=3 settings.training.steps=60"')


def test_a_job_that_fails_does_not_end_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """joint fails, and with it gibbs, which looks at its fit; exact comes before it, pcpca after it."""
    wrong = ("methods.joint.settings.em.ranges={grass: [0, 1]}", "methods.gibbs={fit: joint}", "workers=1", *TINY)
    assert call(tmp_path, "--preset", "smoke", "--methods", "exact", "joint", "gibbs", "pcpca", "--", *wrong) == 2
    assert {path.parent.name for path in tmp_path.rglob("done")} == {"exact", "pcpca"}
    said = capsys.readouterr().err
    assert "contrastive-2 joint seed 0 failed: em.ranges names grass" in said
    assert said.splitlines()[-1].startswith("manifolds: 1 of 4 jobs failed, first contrastive-2 joint seed 0: em.ranges names")


def test_overrides_have_a_folder_each() -> None:
    more = ([], ["--"], ["--", "settings.em.laps=3"])
    folders = [read_command(EXPERIMENT, ["--preset", "smoke", *each], ROOT).folder for each in more]
    assert folders[0] == folders[1] == ROOT / "results" / "runs" / "manifolds" / "smoke"
    other = read_command(EXPERIMENT, ["--preset", "smoke", "--", "settings.em.laps=4"], ROOT).folder
    assert folders[2].parent == other.parent == folders[0] and folders[2] != other


def test_what_users_bring_has_a_folder_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another survey by the same command must not take the place of the first one's results."""
    folders = []
    for survey in ("first", "second", "first"):
        monkeypatch.setattr(GALAXIES.schema, "brought", lambda _, problem, s=survey: s if problem == "archive" else "")
        folders.append(read_command(GALAXIES, ["--preset", "smoke", "--", "problems=[archive]"], ROOT).folder)
    assert folders[0] == folders[2] != folders[1]


PAPER = [
    "observations=64",
    "fresh=64",
    "settings.training.steps=2",
    "settings.posterior.sampler.steps=2",
    "settings.estimation={components: [2], steps: 2, starts: 1}",
    *(f"metrics.{score}=0" for score in ("sinkhorn", "lap_sinkhorn", "paper_sinkhorn", "pqmass", "drawn", "kl")),
    "methods.exact.settings.posterior.beam=8",
    "methods.joint_paper.settings.estimation.steps=2",
    "methods.joint.settings.em.laps=1",
    "methods.joint.settings.posterior.sampler.steps=2",
]
BASELINES = ["methods.pcpca.pcpca.steps=2", "methods.clvm_linear.clvm.steps=2", "methods.clvm_vae.clvm.steps=2"]
CUTS = {
    "paper": ("contrastive-3", {"joint_paper": "[1,1,1]", "gibbs": "[1,0,0]"}, "gibbs", BASELINES),
    "paper-mixed": ("mixed-0.1", {"joint_paper": "1", "gibbs_8x": "1"}, "gibbs_8x", []),
}


@pytest.mark.parametrize("preset", ["paper", pytest.param("paper-mixed", marks=pytest.mark.slow)])
def test_all_of_the_paper_presets_is_built_and_runs_two_steps(preset: str, tmp_path: Path) -> None:
    problem, laps, gibbs, cuts = CUTS[preset]
    posterior = f"methods.{gibbs}.settings.posterior"
    cuts = [*PAPER, *cuts, f"{posterior}.rounds=1", f"{posterior}.sampler.steps=2", f"problems=[{problem}]"]
    cuts += [f"methods.{method}.settings.em.laps={count}" for method, count in laps.items()]
    cuts += [f"methods.{gibbs}.settings.estimation.steps=2"]
    command = read_command(EXPERIMENT, ["--preset", preset, "--", *cuts], tmp_path)
    task = EXPERIMENT.task(problem, 0, command.config)
    for job in jobs_of(command.config, [0]):
        folder = tmp_path / problem / job.method
        _run(job, task, folder)
        found = _latest(folder)
        if job.recipe.baseline:
            assert ("3", "posterior_psnr", "fresh", None) in found and ("1", "posterior_psnr", "fresh", None) not in found
            continue
        assert found["mean", "laps", "fresh", None] == {"exact": 0, "mixture": 0, "joint": 1}.get(
            job.method, 3 if (preset, job.method) == ("paper", "joint_paper") else 1
        )
        assert ("1", "posterior_psnr", "fresh", None) in found


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper", "paper-mixed"])
def test_every_preset_loads_and_names_the_problems_that_there_are(preset: str) -> None:
    command = read_command(EXPERIMENT, ["--preset", preset], ROOT)
    assert {"exact", "mixture"} <= set(command.config.methods)
    assert len(jobs_of(command.config, [0, 1])) >= 2 * len(command.config.problems)


def test_the_growth_table_counts_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.core.growth.SIZES", (0.5, 1.0))
    arguments = ["--preset", "smoke", "--", *TINY]
    assert measure_growth(EXPERIMENT, ("contrastive-2", "contrastive-3"), arguments, tmp_path) == 0
    (table,) = tmp_path.rglob("growth.json")
    rows = json.loads(table.read_text())["rows"]
    assert [row["size_ratio"] for row in rows] == [1.0, 2.0, 4.0]
    assert [row["network_evaluations_ratio"] for row in rows] == [1.0, 2.0, 4.0]
    assert all(row["fit_ratio"] > 0 for row in rows)
    assert "make manifolds-growth PRESET=smoke" in table.with_name("growth.md").read_text()


def test_a_preset_with_too_few_laps_is_refused(tmp_path: Path) -> None:
    sequential = "methods.joint.settings.em={stages: sequential, laps: [3]}"
    job = jobs(*TINY, sequential)["joint"]
    with pytest.raises(MvssError, match="fewer than the 2 stages"):
        _run(job, EXPERIMENT.task(job.problem, job.seed, job.config), tmp_path / "joint")


def test_a_report_of_nothing_leaves_the_table_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "results" / "runs" / "manifolds" / "smoke" / "table.md"
    table.parent.mkdir(parents=True)
    table.write_text("kept\n")
    assert main(EXPERIMENT, ["--preset", "smoke", "--report"], root=tmp_path) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert table.read_text() == "kept\n"


def test_a_folder_of_the_users_takes_the_results(tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    assert read_command(EXPERIMENT, ["--preset", "smoke", "--out", str(out)], ROOT).folder == out / "manifolds" / "smoke"
    assert read_command(EXPERIMENT, ["--preset", "smoke", "--out", "~/x"], ROOT).folder == Path.home() / "x/manifolds/smoke"


def test_a_report_has_the_rows_of_other_code_under_its_commit(tmp_path: Path) -> None:
    experiment = replace(EXPERIMENT, figures=lambda *_: [])
    command = read_command(experiment, ["--preset", "smoke", "--report", "--", *TINY], tmp_path)
    job = next(job for job in jobs_of(command.config, [0]) if job.method == "mixture")
    score = {"source": "1", "metric": "posterior_psnr", "split": "fresh", "lap": None, "value": 1.0, "samples": 2}
    record = {"seed": 0, "problem": job.problem, "method": job.method, **score}
    Records(place_of(job, command.folder) / "records.jsonl").append(record)
    finish(job, command.folder, 1, f"{settings_key(job, EXPERIMENT.data)}-{'0' * 32}", "abc1234")
    samples = command.folder / "seed-0" / "samples" / job.problem
    samples.mkdir(parents=True)
    for name in ("joint.npz", "renamed.npz"):  # a report is of what is done, and deletes nothing
        (samples / name).write_bytes(b"")
    assert main(experiment, ["--preset", "smoke", "--seeds", "0", "1", "--report", "--", *TINY], tmp_path) == 0
    assert not (command.folder / "seed-1").exists()  # nothing of it is done: it is left as it was
    assert {path.name for path in samples.iterdir()} == {"joint.npz", "renamed.npz"}
    table = json.loads((command.folder / "table.json").read_text())
    assert table["commits"] == {"abc1234": {job.problem: ["mixture"]}}
    assert not is_done(experiment, job, command.folder)


def test_two_commands_in_one_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = read_command(EXPERIMENT, ["--preset", "smoke", "--", *TINY], tmp_path)
    with locked(command.folder / "lock"):
        before = written(tmp_path)
        assert main(EXPERIMENT, ["--preset", "smoke", "--", *TINY], tmp_path) == 2
        assert written(tmp_path) == before
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"process {os.getpid()}" in error


@pytest.mark.parametrize("cuda", [False, True])
def test_every_device_takes_the_preset_whose_results_are_published(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert read_command(EXPERIMENT, [], ROOT).preset == read_command(GALAXIES, [], ROOT).preset == "cpu"
    assert read_command(GALAXIES, ["--preset", "gpu"], ROOT).preset == "gpu"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--", "settings.em.lap=3"], "did you mean 'laps'"),
        (["--methods", "jont"], "unknown method 'jont'"),
        (["--", "problems=[mixed-0.2]"], "unknown problem"),
        (["--seeds", "one"], "invalid int value"),
    ],
)
def test_what_the_preset_does_not_take_is_told_before_torch_is_imported(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # to import it is an error
    with pytest.raises(MvssError, match=says):
        read_command(EXPERIMENT, arguments, ROOT)


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (lambda a, r: measure_growth(EXPERIMENT, ("contrastive-2",), a, r), ["--methods", "joint"], "--methods says nothing"),
        (lambda a, r: measure_growth(EXPERIMENT, ("contrastive-2",), a, r), ["--seeds", "0", "1"], "on one seed, not on 2"),
        (lambda a, r: sweep(EXPERIMENT, a, r), ["--seeds", "1"], "--seeds says nothing"),
        (lambda a, r: separate(a), ["--problem", "simulated", "--dry-run"], "--dry-run says nothing"),
        (lambda a, r: separate(a), ["--problem", "simulated", "real"], "one file is made at a time"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    command: Callable[[list[str], Path], int],
    arguments: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(["--preset", "smoke", *arguments], tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and says in error and written(tmp_path) == []


def test_the_label_of_code_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"commit": "0123456789abcdef", "dirty": False, "cuda_device": None}
    monkeypatch.setattr(pool, "environment", lambda: found)
    assert pool.code_label() == "0123456789ab"
    found["cuda_device"] = "Some GPU"
    assert pool.code_label() == "0123456789ab on Some GPU"
