"""What an experiment is, told without importing what it does."""

from __future__ import annotations

__all__ = ["Experiment", "Named", "folder_of"]

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from experiments.core.config import Config

if TYPE_CHECKING:
    from experiments.report.browsers import Browser
    from experiments.report.samples import Results

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Named:
    """A function, `module:name`, that is imported when it is called: in worker processes as well."""

    name: str

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401 - whatever the function takes and gives
        """What it gives."""
        return resolve_name(self.name)(*arguments)

    @property
    def file(self) -> Path:
        """Where it is written."""
        return ROOT / f"{self.name.partition(':')[0].replace('.', '/')}.py"


@dataclass(frozen=True)
class Experiment:
    """name: of the results folder. target: of make. check: raises MvssError for a problem that there is not. task:
    (problem, seed, config) to a `task.Task`. figures: makes all that there is something to show for, and returns the files,
    PNG and PDF of each. browsers: what a page lets one go through, of what was kept. caption: how it was scored. schema: of
    its configuration. sought: the number of the source that is sought in every problem, from "1"; None for its last."""

    name: str
    target: str
    check: Callable[[str], object]
    task: Named
    figures: Callable[[Results], list[Path]]
    browsers: Callable[[Results], list[Browser]]
    caption: str
    schema: type[Config] = Config
    sought: str | None = None

    @property
    def data(self) -> Path:
        """The file that makes the tasks."""
        return self.task.file

    @property
    def folder(self) -> Path:
        """The folder of the experiment, which holds its presets."""
        return folder_of(self.data)


def folder_of(data: Path) -> Path:
    """The folder of the experiment whose tasks are made in the file `data`."""
    return next(folder for folder in data.parents if folder.parent.name == "experiments")
