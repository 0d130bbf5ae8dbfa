"""`make demo`: a minute's look. The models to try separate fresh observations of all three experiments, through the door.

    pretrained/<name>, fresh observations  →  results/demo/{<name>.png, index.html}

Of images the same priors also separate what no network has learned: observations of which half of the pixels are hidden, by
split Gibbs, which takes any operators. A model that is not there is told, and the others are shown; `make demo` says
HF_HUB_OFFLINE=1, so that nothing is fetched.
"""

from __future__ import annotations

__all__ = ["main", "show"]

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from torch import Tensor

import mvss
from experiments.pretrained.models import SEED, SHOWN, Fresh, Shown, fresh, half_hidden
from experiments.pretrained.pictures import Part, Separated, curves, images
from experiments.report.style import save_figure, style
from mvss.metrics.spread import energy_score, spread_ratio
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.files import atomic_write_text

FOLDER = Path(__file__).resolve().parents[2] / "results" / "demo"
OBSERVATIONS = {"manifolds": 128, "mnist-grass": 3, "galaxies": 3}
"""Fresh ones of each model; the pictures show some."""
DRAWS = 6
"""Of each; of vectors, which cost less, five times as many."""
LEGEND = (
    "energy score: how far draws are off, lower is better; of the prior: of draws that have not seen the mixture",
    "spread ratio: 1 where error bars are right, less where they are too narrow; ± its standard error, large for so few",
)
ALL, HALF = "as observed", "half of the pixels hidden"


@dataclass(frozen=True)
class Score:
    """Energy scores, mean over observations, of draws of a source given what is seen, and of draws of its prior, which have
    seen nothing; spread ratio of the former, and its standard error."""

    model: str
    seen: str
    source: str
    drawn: float
    blind: float
    ratio: float
    error: float


@dataclass
class Page:
    """What is shown: scores, and of each model its name, its picture and what is in it."""

    scores: list[Score] = field(default_factory=list)
    pictures: list[tuple[str, str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def main(folder: Path = FOLDER) -> int:
    """Returns the exit status. folder: for the pictures."""
    return report_errors("demo", lambda: _run(folder), resumes=False)


def _run(folder: Path) -> int:
    """Raises MvssError where there is no model, or a file cannot be written."""
    style()
    began, page = time.monotonic(), Page()
    for shown in SHOWN.values():
        try:
            model = mvss.SourceSeparator.from_pretrained(shown.name)
        except MvssError as error:
            page.missing.append(str(error))
            print(f"{shown.name}: not shown, since {error} (which takes hours)")
            continue
        show(shown, model, fresh(shown, OBSERVATIONS[shown.name]), folder, page)
    if not page.pictures:
        raise MvssError("there is no model to show: make pretrained makes them of finished runs")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    atomic_write_text(folder / "index.html", environment.get_template("demo.html").render(page=page))
    print(f"\n{table(page.scores)}\n")
    print(f"pictures: {folder / 'index.html'} (open it in a browser; {time.monotonic() - began:.0f} s)")
    return 0


def show(shown: Shown, model: mvss.SourceSeparator, observed: Fresh, folder: Path, page: Page) -> None:
    """Separate fresh observations, put a picture of them into a folder, and scores onto the page."""
    print(f"{shown.name}: {len(observed.view)} fresh mixtures of {' and '.join(model.sources)}", flush=True)
    vectors = all(len(shape) == 1 for shape in observed.view.shapes.values())
    draws = (5 if vectors else 1) * DRAWS
    parts = [Part(ALL, observed.view, model.separate(observed.view, draws, SEED))]
    if not vectors:
        hidden = half_hidden(observed.view)
        parts.append(Part(HALF, hidden, model.separate(hidden, draws, SEED, posterior="split_gibbs")))
    blind = {source: model.sample(source, draws * len(observed.view), SEED) for source in model.sources}
    for part in parts:
        for source, truth in observed.truth.items():
            without = blind[source].reshape(draws, *truth.shape)
            page.scores.append(score(shown.name, part.title, source, part.draws[source], without, truth))
    separated = Separated(shown.name, parts, observed.truth, blind)
    figure, alt = (curves if vectors else images)(separated)
    save_figure(figure, folder, shown.name)
    page.pictures.append((shown.name, f"{shown.name}.png", alt))


def score(model: str, seen: str, source: str, draws: Tensor, blind: Tensor, truth: Tensor) -> Score:
    """Of draws `(K, N, *shape)` given what is seen, and of as many of the prior, beside truth `(N, *shape)`."""
    drawn, without = (float(energy_score(x, truth).mean()) for x in (draws, blind))
    return Score(model, seen, source, drawn, without, *spread_ratio(draws, truth))


def table(scores: Sequence[Score]) -> str:
    """Scores as text."""
    head = ("model", "mixtures", "source", "energy score", "of the prior", "spread ratio")
    rows = [(s.model, s.seen, s.source, f"{s.drawn:.3g}", f"{s.blind:.3g}", f"{s.ratio:.2f} ± {s.error:.2f}") for s in scores]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    return "\n".join([*lines, *LEGEND])


if __name__ == "__main__":
    raise SystemExit(main())
