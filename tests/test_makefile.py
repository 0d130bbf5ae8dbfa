"""What make says to a user who slipped: one line, with the user's own command in it. What it has pip install."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CALL = ("manifolds", "PRESET=smoke", "SEEDS=0 1", "ARGS=settings.em.laps=3 'methods.joint={}'")
SAID = """make manifolds PRESET="smoke" SEEDS="0 1" ARGS="settings.em.laps=3 'methods.joint={}'\""""
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-c "*) {new};;
  "-m venv") mkdir -p $3/bin; printf '#!/bin/sh\\necho "{words}" >&2; exit 1\\n' > $3/bin/python; chmod +x $3/bin/python;;
esac
"""
"""An interpreter, perhaps new enough, whose pip has nothing but words."""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A call in a folder that has what make looks at."""
    for path in (ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("requirements*.txt")):
        shutil.copy(path, folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env=environment)


def make(folder: Path, *arguments: str) -> str:
    """What a call that fails says on stderr, without make's own last line of a command that failed."""
    done = run(folder, *arguments)
    assert done.returncode == 2, done.stdout
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def interpreter(folder: Path, new: str, words: str = "") -> str:
    path = folder / "python"
    path.write_text(PYTHON.format(new=new, words=words))
    path.chmod(0o755)
    return f"PYTHON={path}"


@pytest.mark.parametrize("slip", ["PRSET=smoke", "preset=smoke", "SEED=1"])
def test_a_variable_that_make_does_not_know_is_refused(tmp_path: Path, slip: str) -> None:
    assert f"unknown variable {slip.partition('=')[0]}; there are: PYTHON PRESET" in make(tmp_path, "help", slip)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("galaxies CATALOGUE=a.csv", "CATALOGUE= is of your own mosaics, and needs FOLDER= too"),
        ("galaxies-data CATALOGUE=a.csv", "CATALOGUE= is of your own mosaics, and needs FOLDER= too"),
        ("galaxies PIXELS=64", "PIXELS= is of your own mosaics, and needs FOLDER= too"),
        ("galaxies-separate BINNING=3", "BINNING= is of your own mosaics, and needs FOLDER= too"),
        ("manifolds FOLDER=there", "FOLDER= says nothing to make manifolds; it is for galaxies galaxies-separate"),
        ("manifolds-growth PROBLEM=mixed-0.1", "PROBLEM= says nothing to make manifolds-growth; it is for manifolds"),
        ("galaxies RUN=results", "RUN= says nothing to make galaxies; it is for publish"),
        ("manifolds-sweep SEEDS=1", "SEEDS= says nothing to make manifolds-sweep; it is for manifolds"),
        ("mnist-grass-scale SEEDS=1", "SEEDS= says nothing to make mnist-grass-scale"),
        ("mnist-grass-scale PROBLEM=full", "PROBLEM= says nothing to make mnist-grass-scale"),
        ("galaxies-separate METHODS=joint", "METHODS= says nothing to make galaxies-separate"),
        ("tables OUT=there", "OUT= says nothing to make tables"),
        ("test PRESET=smoke", "PRESET= says nothing to make test"),
        ("lint clean ARGS=-v", "ARGS= says nothing to make lint clean"),
        ("SEEDS=1", "SEEDS= says nothing to make help"),
        ("setup TORCH=gpu", "TORCH=gpu is not known: TORCH=cpu takes PyTorch's CPU wheels"),
        ("help TORCH=CPU", "TORCH=CPU is not known"),
    ],
)
def test_a_variable_that_would_do_nothing_is_refused(tmp_path: Path, call: str, says: str) -> None:
    assert says in make(tmp_path, *call.split())


@pytest.mark.parametrize(
    "call",
    [
        "galaxies FOLDER=there CATALOGUE=a.csv BINNING=3 PIXELS=64 PRESET=smoke SEEDS=1 METHODS=joint OUT=o ARGS=a=1 TORCH=cpu",
        "galaxies-data PIXELS=64 BINNING=2 PRESET=paper ARGS=--dry-run",
        "galaxies-separate FOLDER=there CATALOGUE=a.csv BINNING=3 PROBLEM=real",
        "publish RUN=there ARGS=--partial",
        "lint test ARGS=-x",
        "split-gibbs ARGS=--publish",
        "mnist-grass METHODS=joint PROBLEM=full",
        "mnist-grass-scale PRESET=smoke OUT=there ARGS=mnist=openml",
        "manifolds PRESET= SEEDS= FOLDER= TORCH=",
    ],
)
def test_a_variable_that_a_target_looks_at_is_taken(tmp_path: Path, call: str) -> None:
    done = run(tmp_path, "--dry-run", *call.split(), interpreter(tmp_path, "echo new"))
    assert done.returncode == 0, done.stderr


def test_methods_and_problems_narrow_a_target(tmp_path: Path) -> None:
    call = ["mnist-grass", "METHODS=joint mixture", "PROBLEM=full", "PRESET=smoke", "ARGS=settings.em.laps=3"]
    said = run(tmp_path, "--dry-run", *call, interpreter(tmp_path, "echo new")).stdout
    assert "--preset smoke --seeds 0 --methods joint mixture --problem full" in said and "-- settings.em.laps=3" in " ".join(
        said.split()
    )


@pytest.mark.parametrize("own", ["", "glibc.malloc.check=1"])
def test_runs_ask_for_large_pages_unless_the_user_has_tuned_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", own)
    (tmp_path / "more.mk").write_text("include Makefile\n$(RUNS) tables: ; @echo $$GLIBC_TUNABLES\n")
    for target, expected in (("galaxies", own or "glibc.malloc.hugetlb=1"), ("tables", own)):
        assert run(
            tmp_path, "-f", "more.mk", "-o", ".venv/.installed", "-o", ".venv/.installed-galaxies", target
        ).stdout.split() == ([expected] if expected else [])


def test_clean_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs").symlink_to(tmp_path / "elsewhere")
    assert "results/runs is a link" in make(tmp_path, "clean")
    assert (tmp_path / "results" / "runs").is_symlink() and (tmp_path / "elsewhere").is_dir()


def test_clean_removes_the_caches_of_every_folder_of_programs(tmp_path: Path) -> None:
    folders = ("mvss", "experiments", "examples", "docs", "tests")
    for name in folders:
        (tmp_path / name / "deep" / "__pycache__").mkdir(parents=True)
    done = run(tmp_path, "clean")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("__pycache__")) and all((tmp_path / name / "deep").is_dir() for name in folders)


def test_the_hint_of_an_old_python_repeats_the_command(tmp_path: Path) -> None:
    assert f"try {SAID} PYTHON=python3.12." in make(tmp_path, *CALL, interpreter(tmp_path, "exit 1"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("broken by NewConnectionError(...)\\nERROR: No matching distribution", f"when there is a network, run {SAID} again"),
        ("WARNING: so\\nERROR: no space", "pip: ERROR: no space (all of it: .venv/pip.log)"),
    ],
)
def test_pip_is_told_in_one_line(tmp_path: Path, words: str, says: str) -> None:
    assert says in make(tmp_path, *CALL, interpreter(tmp_path, "echo new", words))
    assert (tmp_path / ".venv" / "pip.log").read_text().count("ERROR") == 1


@pytest.mark.parametrize(
    ("build", "call", "torch"),
    [
        ("2.13.0", ["setup"], "--no-deps --require-hashes -r requirements-torch.txt"),
        ("2.13.0+cu130", ["setup"], "--no-deps torch=="),
        ("", ["setup", "TORCH=cpu"], "--no-deps --index-url https://download.pytorch.org/whl/cpu torch=="),
    ],
)
def test_all_but_another_build_of_torch_is_installed_by_its_hash(
    tmp_path: Path, build: str, call: list[str], torch: str
) -> None:
    log = tmp_path / "log"
    (tmp_path / "python").write_text(
        f"""#!/bin/sh
case "$*" in
  "-c "*) echo new;;
  "-m venv "*) mkdir -p $3/bin; cp $0 $3/bin/python;;
  *--dry-run*) echo Would install torch-{build};;
  *) echo "$@" >> {log};;
esac
"""
    )
    (tmp_path / "python").chmod(0o755)
    done = run(tmp_path, *call, f"PYTHON={tmp_path / 'python'}")
    assert done.returncode == 0, done.stderr
    first, rest, library = (line.partition("--disable-pip-version-check ")[2] for line in log.read_text().splitlines())
    assert first.startswith(torch)
    assert rest == "--no-deps --require-hashes -r requirements.txt" and library.endswith("-e .")
