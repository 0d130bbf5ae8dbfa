"""One process at a time, whatever becomes of the one before."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvss.runtime import locks
from mvss.runtime.errors import MvssError
from mvss.runtime.locks import alive, locked


@contextlib.contextmanager
def holder(path: Path, end: signal.Signals) -> Iterator[int]:
    """A process that holds the lock, and what ends it."""
    held, told = os.pipe()
    process = os.fork()
    if not process:
        with locked(path):
            os.write(told, b"held")
            time.sleep(60)
        os._exit(0)
    try:
        assert os.read(held, 4) == b"held"
        yield process
    finally:
        os.kill(process, end)
        os.waitpid(process, 0)


def test_only_one_holds_it_and_it_goes_with_the_block(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    with locked(path):
        assert path.read_text() == f"{socket.gethostname()} {os.getpid()}\n"
        with pytest.raises(MvssError, match=f"run is in use by process {os.getpid()} on") as caught, locked(path):
            pytest.fail("held twice")
        assert "\n" not in str(caught.value) and path.exists()
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), locked(path):
        raise KeyboardInterrupt
    assert not path.exists()
    with locked(path):
        pass


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_living_holder_is_named_and_a_dead_one_makes_way(tmp_path: Path, end: signal.Signals) -> None:
    path = tmp_path / "lock"
    with holder(path, end) as process, pytest.raises(MvssError, match=f"process {process} on "), locked(path):
        pytest.fail("held twice")
    assert path.read_text().endswith(f" {process}\n")
    with locked(path):
        assert path.read_text().endswith(f" {os.getpid()}\n")
    assert not path.exists()


def test_another_host_is_believed(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("far.example 12\n")
    with (
        pytest.raises(MvssError, match=r"process 12 on far\.example: if it runs no more, delete .*lock"),
        locked(tmp_path / "lock"),
    ):
        pytest.fail("taken from another host")
    assert (tmp_path / "lock").read_text() == "far.example 12\n"


@pytest.mark.parametrize("text", ["", "garbage", "a b c", "\x00" * 8])
def test_text_that_names_nobody_is_nobodys(tmp_path: Path, text: str) -> None:
    (tmp_path / "lock").write_text(text)
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text() == f"{socket.gethostname()} {os.getpid()}\n"


def test_waiting_is_for_the_end_of_the_other(tmp_path: Path) -> None:
    seen: list[str] = []

    def second() -> None:
        with locked(tmp_path / "lock", wait=True):
            seen.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        seen.append("first")
    thread.join(10)
    assert seen == ["first", "second"]


def test_many_at_once_follow_each_other(tmp_path: Path) -> None:
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with locked(tmp_path / "lock", wait=True):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(most) == 120 and max(most) == 1 and not (tmp_path / "lock").exists()


def test_without_locks_of_the_file_system_the_text_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", missing)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "lock").write_text(f"{socket.gethostname()} {ended.pid}\n")
    assert alive(os.getpid()) and not alive(ended.pid)
    with locked(tmp_path / "lock"), pytest.raises(MvssError, match="in use by"), locked(tmp_path / "lock"):
        pytest.fail("held twice")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MvssError, match="cannot write"), locked(tmp_path / "file" / "lock"):
        pytest.fail("held")


def test_a_holder_whose_lock_has_gone_leaves_the_next_ones(tmp_path: Path) -> None:
    path, held = tmp_path / "lock", contextlib.ExitStack()
    with locked(path):
        path.unlink()
        held.enter_context(locked(path))
    assert path.exists()
    held.close()
    assert not path.exists()
