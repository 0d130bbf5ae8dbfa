"""Worker processes that end with their parent, however it ends, and whose own end is noticed at once.

    parent ── one socket a worker: tasks down; shares, errors, ends up ──► serve
       └──── one pipe for all, never written: its end is the parent's

A worker watches that pipe before it imports anything that takes time. It hears no Ctrl-C: that is for the parent, which
ends its workers. Nothing is shared among workers, so that one that is killed holds nothing that others wait for.
"""

from __future__ import annotations

__all__ = ["Ended", "Report", "Told", "Workers", "killed_is_told", "serve"]

import contextlib
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NamedTuple

from mvss.runtime.errors import MvssError

Report = Callable[[float, str], None]
"""Takes the share of a task that is done, and the phase that is on."""
PATIENCE = 10.0
"""Seconds that a worker has to end before it is killed."""


class Told(NamedTuple):
    """What a task says of itself, see `Report`."""

    done: float
    phase: str


class Ended(NamedTuple):
    """error: what a task has ended with; None where all went well. value: what its function has returned."""

    error: BaseException | None
    value: Any = None


@contextlib.contextmanager
def killed_is_told(resumes: bool = True) -> Iterator[None]:
    """A worker that was killed is an `MvssError`, of one line. resumes: whether the same command goes on."""
    try:
        yield
    except ChildProcessError as error:
        short = "; so does a system that is short of memory: ARGS=workers=1 needs less" if "SIGKILL" in str(error) else ""
        raise MvssError(f"{error}{short}; the same command {'goes on' if resumes else 'starts anew'}") from error


class Workers:
    """As many processes as there are tasks at the same time; use as a context manager, which ends them."""

    def __init__(self) -> None:
        self._watched, self._held = os.pipe()
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, str]] = {}

    def __enter__(self) -> Workers:
        return self

    def start(self, name: str, function: Callable[..., object], *arguments: object) -> None:
        """Call `function(*arguments, report)` in a worker that is idle, or else in a new one.

        Raises:
            ChildProcessError: the worker was killed.
        """
        idle = [worker for worker in self._idle if worker.process.poll() is None]  # one that was killed is not missed
        worker = idle.pop() if idle else _started(self._watched)
        self._idle = idle
        self._busy[worker.line] = (worker, name)
        try:
            worker.line.send((function, arguments))
        except OSError as error:
            raise ChildProcessError(_epitaph(worker.process, name)) from error

    def events(self, seconds: float) -> list[tuple[str, Told | Ended]]:
        """What has happened to tasks, by name, as soon as anything has, after `seconds` at the latest.

        Raises:
            ChildProcessError: a worker was killed.
        """
        found: list[tuple[str, Told | Ended]] = []
        for line in wait(list(self._busy), seconds):
            assert isinstance(line, Connection)
            worker, name = self._busy[line]
            try:
                while line in self._busy and line.poll():
                    event = line.recv()
                    found.append((name, event))
                    if isinstance(event, Ended):
                        del self._busy[line]
                        self._idle.append(worker)
            except (EOFError, OSError) as error:
                raise ChildProcessError(_epitaph(worker.process, name)) from error
        return found

    def __exit__(self, *_: object) -> None:
        workers = [*self._idle, *(worker for worker, _ in self._busy.values())]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            try:
                worker.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.line.close()
        os.close(self._held)
        os.close(self._watched)


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    line: Connection


def _started(watched: int) -> _Worker:
    """A new worker."""
    ours, theirs = Pipe()
    serving = f"from experiments.core.workers import serve; serve({theirs.fileno()}, {watched})"
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    # What is blocked here stays so in the child from its first instruction on, and is not lost here.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        command, environment = [sys.executable, "-c", serving], os.environ | {"PYTHONPATH": path}
        process = subprocess.Popen(command, pass_fds=[theirs.fileno(), watched], env=environment)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return _Worker(process, ours)


def _epitaph(process: subprocess.Popen[bytes], name: str) -> str:
    """How a worker has ended, in words."""
    status = process.wait(PATIENCE)
    how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"has ended with status {status}"
    return f"the worker of {name} {how}"


def serve(line: int, watched: int) -> None:
    """What a worker does: one task after the other, until its parent has ended. Arguments: file descriptors."""
    threading.Thread(target=_end_with, args=(watched,), daemon=True).start()
    connection = Connection(line)
    while True:
        try:
            function, arguments = connection.recv()  # which imports what it needs
        except EOFError:
            return
        try:
            value = function(*arguments, lambda done, phase: connection.send(Told(done, phase)))
        except Exception as error:
            error.add_note(traceback.format_exc())
            connection.send(Ended(error))
        else:
            connection.send(Ended(None, value))


def _end_with(watched: int) -> None:
    os.read(watched, 1)
    os._exit(1)
