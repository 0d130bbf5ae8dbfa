"""Workers do tasks, are missed at once, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.core.workers import Ended, Report, Told, Workers, killed_is_told
from mvss.runtime.errors import MvssError

ROOT = Path(__file__).parents[2]


def square(number: float, report: Report) -> None:
    report(number**2, "squares")


def half(number: float, report: Report) -> float:
    return number / 2


def fail(report: Report) -> None:
    raise ValueError("of the task")


def rest(folder: Path, report: Report) -> None:
    (folder / f"{os.getpid()}").touch()
    time.sleep(60)


def until(what: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    return what()


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def collect(workers: Workers, ends: int) -> list[tuple[str, Told | Ended]]:
    found: list[tuple[str, Told | Ended]] = []
    while sum(isinstance(event, Ended) for _, event in found) < ends:
        found += workers.events(1.0)
    return found


def test_tasks_report_and_end_and_a_worker_is_used_again() -> None:
    with Workers() as workers:
        workers.start("two", square, 2.0)
        assert collect(workers, 1) == [("two", Told(4.0, "squares")), ("two", Ended(None))]
        (first,) = workers._idle
        workers.start("three", square, 3.0)
        workers.start("bad", fail)
        found = collect(workers, 2)
        assert ("three", Told(9.0, "squares")) in found and ("three", Ended(None)) in found and first in workers._idle
        (error,) = (event.error for name, event in found if name == "bad" and isinstance(event, Ended))
        assert isinstance(error, ValueError) and "in fail" in error.__notes__[0]
        for worker in workers._idle:
            worker.process.kill()
            worker.process.wait()
        workers.start("four", square, 4.0)
        assert collect(workers, 1)[0] == ("four", Told(16.0, "squares"))
    assert first.process.poll() is not None


def test_a_worker_that_is_killed_is_missed_while_others_work(tmp_path: Path) -> None:
    with Workers() as workers:
        workers.start("long", rest, tmp_path)
        workers.start("killed", rest, tmp_path)
        assert until(lambda: len(list(tmp_path.iterdir())) == 2)
        long, killed = (worker.process for worker, _ in workers._busy.values())
        killed.send_signal(signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(ChildProcessError, match="the worker of killed was ended by SIGKILL"):
            workers.events(30.0)
        assert time.monotonic() - began < 1 and long.poll() is None
    assert long.poll() is not None


PARENT = """
import sys
from pathlib import Path
from experiments.core.workers import Workers
from unready import task
with Workers() as workers:
    workers.start("importing", task)
    print(next(iter(workers._busy.values()))[0].process.pid, flush=True)
    workers.events(60.0)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent_even_while_it_imports(tmp_path: Path, number: int) -> None:
    begun = tmp_path / "begun"
    slow = f"import time, sys\nif sys.argv[0] == '-c' and len(sys.argv) == 1:\n open({str(begun)!r}, 'w')\n time.sleep(60)\n"
    (tmp_path / "unready.py").write_text(slow + "def task(report):\n pass\n")
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    command, environment = [sys.executable, "-c", PARENT, "parent"], os.environ | {"PYTHONPATH": path}
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert until(begun.exists) and alive(worker)
    # Ctrl-C goes to all of the group; the worker does not hear it, and says nothing.
    os.killpg(parent.pid, number) if number == signal.SIGINT else parent.send_signal(number)
    _, error = parent.communicate(timeout=10)
    assert parent.returncode == -number and error.count(b"Traceback") == (number == signal.SIGINT)
    assert until(lambda: not alive(worker), 2)


@pytest.mark.parametrize("command", ["experiments.manifolds", "experiments.report.rebuild", "experiments.core.publish"])
def test_ctrl_c_while_a_command_imports_is_one_line(command: str, tmp_path: Path) -> None:
    for package in ("yaml", "numpy"):  # in place of what takes seconds; whichever comes first
        (tmp_path / f"{package}.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-m", command], env=environment, **streams)  # type: ignore[call-overload]
    assert process.stdout.readline() == b"importing\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert (process.returncode, error) == (130, b"\ninterrupted\n")


def test_what_a_task_returns_comes_with_its_end_and_a_kill_is_one_line(tmp_path: Path) -> None:
    with Workers() as workers:
        workers.start("half", half, 3.0)
        assert collect(workers, 1) == [("half", Ended(None, 1.5))]
    with pytest.raises(MvssError, match=r"SIGKILL.*memory.*the same command goes on"), killed_is_told(), Workers() as workers:
        workers.start("long", rest, tmp_path)
        (worker, _), *_ = workers._busy.values()
        worker.process.kill()
        collect(workers, 1)
