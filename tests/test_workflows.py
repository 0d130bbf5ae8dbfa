"""Workflows and hooks call what there is: targets of the Makefile, its variables, Pythons that the project allows."""

from __future__ import annotations

__all__: list[str] = []

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"^([A-Z]+) +\?=", MAKEFILE, re.MULTILINE))


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


def lines(path: Path) -> list[str]:
    steps = [step for job in jobs(path).values() for step in job["steps"]]
    return [line for step in steps for line in step.get("run", "").splitlines()]


def test_there_are_workflows_for_tests_pages_the_wheel_and_what_is_slow() -> None:
    assert [path.stem for path in WORKFLOWS] == ["docs", "nightly", "tests", "wheel"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_targets_and_scripts_that_there_are(path: Path) -> None:
    called = lines(path)
    assert called
    for words in (shlex.split(line) for line in called):
        if words[0] == "make":
            assert words[1] in TARGETS, words
            assert {word.partition("=")[0] for word in words[2:]} <= VARIABLES, words
        elif words[0].startswith("."):
            assert (ROOT / words[0]).is_file(), words
    assert all("timeout-minutes" in job for job in jobs(path).values())


def test_the_tests_run_on_every_python_that_is_promised_on_linux_and_on_macos() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    promised = [
        name.rpartition(" ")[2] for name in project["classifiers"] if name.startswith("Programming Language :: Python :: 3.")
    ]
    matrix = jobs(ROOT / ".github/workflows/tests.yml")["tests"]["strategy"]["matrix"]
    assert matrix["python"] == promised and matrix["system"] == ["ubuntu-latest"]
    assert [each["system"] for each in matrix["include"]] == ["macos-latest"]
    assert all(SpecifierSet(project["requires-python"]).contains(f"{python}.0") for python in promised)


def test_hooks_before_a_commit_are_tools_of_the_project() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    called = [shlex.split(hook["entry"]) for hook in repository["hooks"]]
    assert [words[:2] for words in called] == [[".venv/bin/ruff", "check"], [".venv/bin/ruff", "format"], ["make", "lint"]]
    assert all(hook["language"] == "system" for hook in repository["hooks"])


def test_files_that_are_named_to_contributors_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:mvss|experiments|tests|docs|\.github|\.ci)/[\w./]*)`", text)
    assert len(named) > 30 and [name for name in named if not (ROOT / name).exists()] == []
    assert [target for target in re.findall(r"\bmake ([a-z][a-z-]+)", text) if target not in TARGETS] == []
