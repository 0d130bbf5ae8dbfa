"""What pip installs: the dependencies that pyproject.toml names are those that are imported, and the wheel is mvss alone.

mvss ⊆ dependencies (+ extra `files`)      experiments ⊆ dependencies + extra `experiments`, and in functions + extra `galaxies`
"""

from __future__ import annotations

__all__: list[str] = []

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from structure import modules

from mvss.io.optional import OPTIONAL

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
QUICK = """
estimation: {kind: ascent, components: [2], steps: 20, batch: 64, starts: 1}
prior: {network: {hidden: [8], embedding: 4}}
training: {steps: 4, batch: 64, sigma_min: 0.02, sigma_max: 1.0}
em: {laps: 1}
posterior: {kind: moment_matching, sampler: {method: ancestral, steps: 2, sigma_start: 0.3, sigma_min: 0.02}, components: 2}
"""
IMPORT_ALL = """
import importlib, pkgutil, mvss
names = [module.name for module in pkgutil.walk_packages(mvss.__path__, "mvss.")]
for name in names:
    importlib.import_module(name)
print(len(names), mvss.__file__)
"""


def named(requirements: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


CORE, EXPERIMENTS, GALAXIES = named(PROJECT["dependencies"]), named(EXTRAS["experiments"]), named(EXTRAS["galaxies"])


@cache
def imported(package: str) -> dict[str, set[str]]:
    """Distributions that a package imports, and where: `module`, or `module, in a function`."""
    owners = importlib.metadata.packages_distributions()
    found: dict[str, set[str]] = {}
    for name, module in modules(ROOT, package).items():
        for top, lazy in _imports(module.tree, False):
            if top not in sys.stdlib_module_names and top not in ("mvss", "experiments", "examples"):
                place = f"{name}, in a function" if lazy else name
                found.setdefault(canonicalize_name(owners.get(top, [top])[0]), set()).add(place)
    return found


def _imports(parent: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0], lazy
        yield from _imports(node, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_mvss_imports_its_dependencies_and_nothing_else() -> None:
    found = imported("mvss")
    assert {name: places for name, places in found.items() if name not in CORE} == {}
    assert set(found) == CORE
    assert set(OPTIONAL.values()) == named(EXTRAS["files"])


def test_experiments_import_what_their_extras_name() -> None:
    found = imported("experiments")
    assert {name: places for name, places in found.items() if name not in CORE | EXPERIMENTS | GALAXIES} == {}
    assert {p for name in GALAXIES for p in found[name] if not p.endswith(", in a function")} == set()
    assert set(found) >= EXPERIMENTS


def test_examples_import_what_their_extra_names() -> None:
    found = set(imported("examples"))
    assert found <= CORE | named(EXTRAS["examples"]) and found >= named(EXTRAS["examples"])


def locked(name: str) -> dict[str, list[tuple[Requirement, int]]]:
    """The pins of a lock, by distribution, each with the number of its hashes."""
    pins: dict[str, list[tuple[Requirement, int]]] = {}
    for entry in (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "").splitlines():
        if entry.strip() and not entry.startswith("#"):
            text, *hashes = entry.split("--hash=sha256:")
            pin = Requirement(text)
            pins.setdefault(canonicalize_name(pin.name), []).append((pin, len(hashes)))
    return pins


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.txt", ["experiments", "examples"]),
        ("requirements-galaxies.txt", ["experiments", "examples", "galaxies"]),
        ("requirements-dev.txt", ["experiments", "examples", "galaxies", "notebooks", "dev"]),
    ],
)
def test_the_locks_hold_what_pyproject_asks_for(name: str, extras: list[str]) -> None:
    torch, rest = locked("requirements-torch.txt"), locked(name)
    assert not set(torch) & set(rest) and not [each for each in rest if each.startswith("nvidia")]
    pins = torch | rest
    assert all(hashes and str(pin.specifier).startswith("==") for entry in pins.values() for pin, hashes in entry)
    asked = [Requirement(text) for group in (PROJECT["dependencies"], *(EXTRAS[extra] for extra in extras)) for text in group]
    for requirement in (each for each in asked if each.name != "mvss"):
        for pin, _ in pins[canonicalize_name(requirement.name)]:
            (version,) = (each.version for each in pin.specifier)
            assert requirement.specifier.contains(version), requirement
    for python in ("3.11.0", "3.11.9", "3.12.9", "3.13.9", "3.14.1"):
        for system in ("linux", "darwin"):
            where = {"python_full_version": python, "python_version": python[:4], "sys_platform": system}
            counts = {
                name: sum(pin.marker is None or pin.marker.evaluate(where) for pin, _ in entry) for name, entry in pins.items()
            }
            assert max(counts.values()) == 1 and all(counts[canonicalize_name(r.name)] for r in asked if r.name != "mvss")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves folders where it is made."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("mvss", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, folder]
    subprocess.run(command, check=True, timeout=100)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_mvss_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        held = set(file.namelist())
        (metadata,) = (file.read(name).decode() for name in held if name.endswith(".dist-info/METADATA"))
    files = [path for path in (ROOT / "mvss").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    inside = {name for name in held if ".dist-info/" not in name}
    assert inside == {path.relative_to(ROOT).as_posix() for path in files}
    assert {"mvss/py.typed", "mvss/presets/vectors.yaml"} <= inside
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert "mvss/io/mixture.schema.json" in inside
    assert "License-Expression: MIT" in metadata and "Classifier: Typing :: Typed" in metadata


def closure(names: Iterable[str]) -> set[str]:
    """Distributions, and what they require in turn."""
    found: set[str] = set()
    waiting = {(canonicalize_name(name), "") for name in names}
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        found.add(name)
        for requirement in map(Requirement, importlib.metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                new = {(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)} - seen
                waiting |= new
                seen |= new
    return found


@pytest.mark.slow
def test_every_module_imports_where_only_dependencies_are(wheel: Path, tmp_path: Path) -> None:
    for name in closure(CORE):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            if not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(Path(str(distribution.locate_file(top))))
    assert (tmp_path / "torch").exists() and not (tmp_path / "matplotlib").exists() and not (tmp_path / "mvss").exists()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path)
    path = f"import sys; sys.path.append({str(tmp_path)!r})"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", path + IMPORT_ALL], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    count, place = run.stdout.split()
    assert int(count) == len(modules(ROOT, "mvss")) - 1 and Path(place).is_relative_to(tmp_path)


@pytest.mark.slow  # a minute or more, with a network
def test_pip_installs_a_library_that_runs_the_readme(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    torch = f"torch=={importlib.metadata.version('torch')}"  # the build that is here, not gigabytes of another
    # On this path lies mvss itself, which pip would take as installed.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel, torch], env=clean, check=True, timeout=3000)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "program.py").write_text(IMPORT_ALL + code.replace('"vectors"', '"quick.yaml"'))
    command = [python, "program.py"]
    run = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert str(tmp_path / "venv") in run.stdout and "target: RMSE" in run.stdout
    assert (tmp_path / "run").is_dir()
