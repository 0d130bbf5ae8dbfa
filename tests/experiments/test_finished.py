"""A job is done where it has what it has finished with: what is lost is named, left out, and made again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.core import scheduler
from experiments.core.cli import main, read_command
from experiments.core.config import Job
from experiments.core.finished import damage, finish, is_done, made_at
from experiments.core.places import jobs_of, key_of, place_of, samples_of
from experiments.core.records import Records, read_records
from experiments.manifolds.__main__ import EXPERIMENT as MANIFOLDS
from mvss.runtime.errors import MvssError
from mvss.runtime.locks import locked

SCORE = {"source": "1", "metric": "posterior_psnr", "split": "fresh", "lap": None, "value": 1.0, "samples": 2}
METRICS = ("posterior_psnr", "posterior_sinkhorn", "prior_sinkhorn")
EXPERIMENT = replace(MANIFOLDS, figures=lambda *_: [])
ARGUMENTS = ["--preset", "smoke", "--", "problems=[contrastive-2]"]


def work(job: Job, task: object, folder: Path, append: Callable[[dict[str, Any]], None], *_: object) -> dict[str, np.ndarray]:
    """In place of a fit: it goes on where it was."""
    for metric in METRICS[len(read_records(folder / "records.jsonl")) :]:
        append({**SCORE, "metric": metric})
    return {"draws": np.arange(4.0)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Job, Path]]:
    """Do all of a job; returns it and the folder of the run."""
    command = read_command(EXPERIMENT, ARGUMENTS, tmp_path)
    job = jobs_of(command.config, [0])[0]
    monkeypatch.setattr(scheduler, "work_of", lambda job: work)

    def run() -> tuple[Job, Path]:
        scheduler._work(EXPERIMENT, job, command.folder, key_of(EXPERIMENT, job), "abc", lambda *_: None)
        return job, command.folder

    return run


Run = Callable[[], tuple[Job, Path]]


def cut(job: Job, folder: Path) -> None:
    path = place_of(job, folder) / "records.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))


def change(job: Job, folder: Path) -> None:
    path = place_of(job, folder) / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1.0", b"2.0"))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut, "1 of 3 records are left"),
        (change, "records were changed"),
        (lambda job, folder: (place_of(job, folder) / "records.jsonl").unlink(), "0 of 3 records are left"),
        (lambda job, folder: samples_of(job, folder).unlink(), "samples are missing"),
        (lambda job, folder: samples_of(job, folder).write_bytes(b"PK"), "samples are missing or were changed"),
    ],
)
def test_what_is_lost_is_not_done_and_is_made_again(
    run: Run, harm: Callable[[Job, Path], None], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job, folder = run()
    before = (place_of(job, folder) / "records.jsonl").read_bytes()
    assert is_done(EXPERIMENT, job, folder) and made_at(EXPERIMENT, job, folder) == "abc" and damage(job, folder) == ""
    harm(job, folder)
    assert not is_done(EXPERIMENT, job, folder) and not made_at(EXPERIMENT, job, folder)
    assert main(EXPERIMENT, [*ARGUMENTS[:2], "--report", *ARGUMENTS[2:]], tmp_path) == 2  # there is nothing else
    (line, _) = capsys.readouterr().err.splitlines()
    assert line.startswith("contrastive-2 exact seed 0 is not done: its ") and says in line
    run()
    assert is_done(EXPERIMENT, job, folder) and (place_of(job, folder) / "records.jsonl").read_bytes() == before


def test_what_is_whole_stays_where_another_is_damaged(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    job, folder = run()
    other = next(j for j in jobs_of(job.config, [0]) if j.method == "mixture")
    Records(place_of(other, folder) / "records.jsonl").append({"seed": 0, "problem": job.problem, "method": "mixture", **SCORE})
    finish(other, folder, 1, key_of(EXPERIMENT, other), "abc")
    cut(job, folder)
    assert main(EXPERIMENT, [*ARGUMENTS[:2], "--report", *ARGUMENTS[2:]], tmp_path) == 0
    assert "1 of 3 records" in capsys.readouterr().err
    assert {row["method"] for row in read_records(folder / "seed-0" / "metrics.jsonl")} == {"mixture"}


def test_a_report_is_refused_while_a_run_works_there(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, folder = run()
    before = sorted(tmp_path.rglob("*"))
    with locked(folder / "lock"):
        assert main(EXPERIMENT, [*ARGUMENTS[:2], "--report", *ARGUMENTS[2:]], tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"in use by process {os.getpid()} on " in error
    assert sorted(tmp_path.rglob("*")) == before


def test_records_that_vanish_during_a_run_end_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def robbed(job: Job, task: object, folder: Path, append: Callable[[dict[str, Any]], None], *rest: object) -> object:
        append(SCORE)
        (folder / "records.jsonl").unlink()
        append(SCORE)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "work_of", lambda job: robbed)
        with pytest.raises(MvssError, match="exact seed 0: 1 of 2 records are left"):
            run()
    job, folder = run()
    assert len(read_records(place_of(job, folder) / "records.jsonl")) == 3


def append_half(job: Job, folder: Path) -> None:
    with (place_of(job, folder) / "records.jsonl").open("ab") as file:
        file.write(b'{"source": "1", ')


@pytest.mark.parametrize(
    ("harm", "anew", "lines"),
    [
        (cut, True, 1),
        (change, True, 1),
        (lambda job, folder: (place_of(job, folder) / "records.jsonl").unlink(), True, 1),
        (lambda job, folder: (place_of(job, folder) / "key").write_text(key_of(EXPERIMENT, job)), True, 0),
        (append_half, False, 0),  # as a kill does
        (lambda job, folder: None, False, 0),
    ],
)
def test_an_unfinished_job_knows_its_records(
    run: Run,
    harm: Callable[[Job, Path], None],
    anew: bool,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    jobs = []

    def interrupted(job: Job, task: object, folder: Path, append: Callable[[dict[str, Any]], None], *_: object) -> object:
        for metric in METRICS[:2]:
            append({**SCORE, "metric": metric})
        (folder / "state").write_text("two laps\n")
        jobs.append((job, folder.parents[3]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "work_of", lambda job: interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    ((job, folder),) = jobs
    harm(job, folder)
    run()
    assert (place_of(job, folder) / "state").exists() != anew
    said = capfd.readouterr().err
    assert said.count("\n") == said.count("exact seed 0: records of it were removed or changed") == lines
    assert is_done(EXPERIMENT, job, folder) and len(read_records(place_of(job, folder) / "records.jsonl")) == 3


@pytest.mark.parametrize(
    "content", ["", "{", "abc-def 0123", '{"key": 1}', '{"key": "a", "commit": "b", "records": 3, "samples": ""}']
)
def test_a_note_that_is_no_note_says_nothing(run: Run, content: str) -> None:
    job, folder = run()
    (place_of(job, folder) / "done").write_text(content)
    assert not is_done(EXPERIMENT, job, folder) and not made_at(EXPERIMENT, job, folder) and damage(job, folder) == ""


def test_records_are_on_the_disk_before_the_job_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    order, fsync, replace_file = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append(os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2]), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace_file(a, b)))
    run()
    assert order.count("records.jsonl") == 3
    last = len(order) - 1 - order[::-1].index("records.jsonl")
    assert last < order.index("exact.npz") < order.index("done")


@pytest.mark.parametrize("name", ["exact.npz", "records.jsonl", "done", "key"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    run: Run, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if name in Path(os.readlink(f"/proc/self/fd/{descriptor}")).name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(MvssError, match=r"(?i)no space left") as error:
            run()
    assert "\n" not in str(error.value) and name in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp" or path.name == name != "records.jsonl"]
    job, folder = run()  # with space again
    assert is_done(EXPERIMENT, job, folder)
    assert np.load(samples_of(job, folder))["draws"].tolist() == [0, 1, 2, 3]
