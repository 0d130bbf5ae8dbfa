"""The results of grass and digits in Markdown, for the reproduction page.

One fit, separated in several ways and under operators that it has not seen, and what was to be reached.
"""

from __future__ import annotations

__all__ = ["AGAINST", "BARS", "results"]

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.report.bars import Against, Bar, Rows, bars_of, compared
from experiments.report.lines import cell, head, line
from experiments.report.methods import AUTO, FLOOR, OURS, method_named, method_order
from experiments.report.tables import lookup

DIGIT = "2"
"""The number of the source that is sought, in every problem: of two looks the second grass comes after it."""
COLUMNS = {
    "energy_score": ("energy score", 2),
    "spread_ratio": ("spread ratio", 2),
    "coverage": ("share in 68 % intervals", 3),
    "posterior_psnr": ("PSNR (dB)", 1),
    "posterior_mean_psnr": ("PSNR of means of 8 (dB)", 1),
    "chi2": ("χ² per number", 2),
    "posterior_frechet": ("Fréchet, draws", 1),
    "prior_frechet": ("Fréchet, prior", 1),
    "log_prob_auc": ("AUC of log p", 3),
}
COSTS = {"evaluations_per_draw": ("evaluations a draw", 0), "seconds_per_draw": ("seconds a draw", 3)}
LEARNED, SWAP = ("full", "downsampled"), "swap-"
TRAINED = ("mask", "blur", "average", "fraction")
"""Operators that a fit of their own is compared on."""
MEAN, EXPECTED = "posterior_mean_psnr", "posterior_expectation_psnr"
BARS = (
    *(Bar(p, MEAN, least=d, method=OURS, source=DIGIT) for p, d in zip(LEARNED, (24.0, 20.5), strict=True)),
    *(Bar(p, "spread_ratio", 1.25, 0.8, OURS, DIGIT) for p in LEARNED),
    *(Bar(p, MEAN, least=d, method=AUTO, source=DIGIT) for p, d in zip(LEARNED, (25.2, 21.5), strict=True)),
    *(Bar(p, "spread_ratio", 1.25, 0.8, AUTO, DIGIT) for p in LEARNED),
    *(Bar(p, "coverage", 0.76, 0.6, AUTO, DIGIT) for p in LEARNED),
    *(Bar(p, "chi2", 1.25, method=OURS) for p in LEARNED),  # of grass that is drawn exactly given the digit
    Bar("swap-prior", "spread_ratio", 1.1, 0.9, OURS, DIGIT),
    Bar("swap-prior", "evaluations_per_draw", 60, method=OURS),
)
AGAINST = (
    *(Against(OURS, "energy_score", "amortised", 0.0, problem=p, source=DIGIT, times=1.1) for p in LEARNED),
    *(Against(AUTO, "prior_frechet", FLOOR, 0.0, problem=p, source=DIGIT, times=2.0) for p in LEARNED),
    Against(OURS, MEAN, "joint_long", 0.3, sign=0, problem="swap-prior", source=DIGIT),
    Against(AUTO, "log_prob_auc", "mixture", 0.0, sign=-1, problem="full", source=DIGIT),
    *(Against(OURS, MEAN, "trained", 1.0, sign=-1, problem=f"{SWAP}{p}", source=DIGIT) for p in TRAINED),
    *(
        Against(OURS, MEAN, "mixture", -more, sign=-1, problem=f"{SWAP}{p}", source=DIGIT, theirs=EXPECTED)
        for more, swaps in ((1.5, ("mask", "blur", "average")), (2.0, ("noise", "fraction", "two", "background")))
        for p in swaps
    ),
)


def results(table: Mapping[str, Any] | None) -> str:
    """Where they come from, what the ways to separate by one fit give, other operators, the bars."""
    if table is None:
        return "No results of the cpu preset are in this checkout: `make mnist-grass PRESET=cpu`, then `make readme`."
    rows = lookup(table)
    problems = list(dict.fromkeys(row["problem"] for row in table["rows"]))
    made = f"Preset {table['preset']}, made by\n`{table['command']}`."
    said = "Mean ± standard deviation over seeds, of digits, on fresh observations; one seed where there is no ±."
    where = "All of it, with the commits that made it: [table.md](../results/mnist_grass/cpu/table.md)."
    parts = (
        [made, "", said, "", where],
        list(_ways(rows, [p for p in problems if p in LEARNED])),
        list(_swaps(rows, [p for p in problems if p.startswith(SWAP)])),
        bars_of(rows, BARS, COLUMNS | COSTS),
        compared(rows, AGAINST, COLUMNS | {EXPECTED: ("posterior mean", 1)}, problems),
    )
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _ways(rows: Rows, problems: list[str]) -> Iterator[str]:
    """Every method, and what a draw of it costs."""
    yield from head(("problem", "method"), [title for title, _ in (COLUMNS | COSTS).values()])
    for problem in problems:
        for name in method_order(method for p, method, *_ in rows if p == problem and not method_named(method).ablation):
            cells = [cell(rows.get((problem, name, "mean" if m == "chi2" else DIGIT, m)), d) for m, (_, d) in COLUMNS.items()]
            cells += [cell(rows.get((problem, name, "mean", m)), d) for m, (_, d) in COSTS.items()]
            yield line(problem, method_named(name).label, *cells)


def _swaps(rows: Rows, problems: list[str]) -> Iterator[str]:
    """Of each other operator the means of 8, and how wide the draws are."""
    if not problems:
        return
    yield "Other operators, noise and backgrounds, separated by the fit of `full`; nothing is retrained but the prior of a new"
    yield "background, on that alone. `swap-prior` is made of each fit's own priors, so that `joint` and the mixture have other"
    yield "observations there. PSNR of means of 8 (dB), that of the posterior mean (told from 16 draws: less the error that so"
    yield "few add), and the spread ratio of the draws:"
    yield ""
    named = (method for p, method, *_ in rows if p in problems and not method_named(method).ablation)
    methods, kinds = (
        method_order(named),
        {MEAN: ("", 1), EXPECTED: (", its posterior mean", 1), "spread_ratio": (", spread", 2)},
    )
    shown = [(m, metric) for m in methods for metric in kinds if any((p, m, DIGIT, metric) in rows for p in problems)]
    yield from head(("problem",), [f"{method_named(m).short}{kinds[metric][0]}" for m, metric in shown])
    for problem in problems:
        yield line(problem, *(cell(rows.get((problem, m, DIGIT, metric)), kinds[metric][1]) for m, metric in shown))
