"""The results of galaxies in Markdown, for the reproduction page: scores of every method, and what was to be reached."""

from __future__ import annotations

__all__ = ["AGAINST", "BARS", "results"]

from collections.abc import Mapping
from typing import Any

from experiments.report.bars import Against, Bar, bars_of, compared
from experiments.report.lines import cell, head, line
from experiments.report.methods import OURS, method_named, method_order
from experiments.report.tables import lookup

GALAXY = "2"
COLUMNS = {
    "energy_score": ("energy score", 3),
    "flux_coverage": ("fluxes, share in 68 % intervals", 3),
    "flux_spread_ratio": ("fluxes, spread ratio", 2),
    "flux_bias": ("fluxes, bias", 3),
    "flux_scatter": ("fluxes, scatter", 3),
    "psnr_peak_blended": ("PSNR, blended (dB)", 1),
    "held_out_chi2": ("held-out χ²", 2),
}
OF_Y = "held_out_chi2"
"""Of observations, not of a source."""
SIMULATED, REAL, SEGMENTATION = "simulated", "real", "segmentation"
BARS = (
    Bar(SIMULATED, "flux_bias", 0.02, -0.02, OURS, GALAXY),
    Bar(SIMULATED, "flux_coverage", 0.76, 0.6, OURS, GALAXY),
    Bar(REAL, OF_Y, 1.2, 0.8, OURS),
)
AGAINST = (
    *(
        Against(OURS, "psnr_peak_blended", rival, -3.0, sign=-1, problem=SIMULATED, source=GALAXY)
        for rival in (SEGMENTATION, "pcpca", "clvm_linear", "clvm_vae")
    ),
    Against(OURS, "flux_scatter", SEGMENTATION, 0.0, problem=SIMULATED, source=GALAXY),
    Against(OURS, "psnr_peak_blended", SEGMENTATION, 0.0, sign=-1, problem=REAL, source=GALAXY),
)


def results(table: Mapping[str, Any] | None) -> str:
    """Where they come from, the scores of galaxies, the bars."""
    if table is None:
        return "No results of the cpu preset are in this checkout: `make galaxies PRESET=cpu`, then `make readme`."
    rows = lookup(table)
    problems = list(dict.fromkeys(row["problem"] for row in table["rows"]))
    made = [f"Preset {table['preset']}, made by `{table['command']}`. All of it, with the commits that made it:"]
    made += ["[table.md](../results/galaxies/cpu/table.md).", ""]
    scores = head(("problem", "method"), [title for title, _ in COLUMNS.values()])
    for problem in problems:
        for name in method_order(method for p, method, source, _ in rows if (p, source) == (problem, GALAXY)):
            found = {m: rows.get((problem, name, "mean" if m == OF_Y else GALAXY, m)) for m in COLUMNS}
            if any(found.values()):
                cells = (cell(found[m], digits) for m, (_, digits) in COLUMNS.items())
                scores.append(line(problem, method_named(name).label, *cells))
    parts = ([*made, *scores], bars_of(rows, BARS, COLUMNS), compared(rows, AGAINST, COLUMNS, problems))
    return "\n\n".join("\n".join(lines) for lines in parts)
