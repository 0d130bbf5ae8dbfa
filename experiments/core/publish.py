"""Committed results from a run that is finished: `make publish RUN=results/runs/<experiment>/<preset>`.

    results/runs/<experiment>/<preset>/  →  results/<experiment>/<preset>/
        table.{json, md}, times.json, {growth, scale, sweep}.{json, md}, figures/,
        seed-N/{config.yaml, environment.json, metrics.jsonl},
        seed-N/samples/ of the seed that the figures show

Table and figures are made anew. Nothing is deleted: a published row that the run has not stays, beside the commit that made it,
where the preset still says of its job what it said then. No other is lost, unless `--partial` says so.
"""

from __future__ import annotations

__all__ = ["main", "publish"]

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.core.cli import ROOT
from experiments.core.config import Config, Job
from experiments.core.durations import own_times, read_times, times_of, times_text
from experiments.core.kept_rows import Kind, kept_rows, kind_of
from experiments.core.places import Experiment, jobs_of, name_of, place_of, samples_of
from experiments.core.pools import tunes
from experiments.core.reporting import Report, report
from experiments.report.metrics import read_metrics, read_seeds, write_metrics
from experiments.report.rebuild import OVERRIDES, experiment_named, rebuild
from experiments.report.samples import Results
from experiments.report.tables import is_audit
from mvss.presets.reader import load_config, save_config
from mvss.runtime.errors import MvssError
from mvss.runtime.exits import report_errors
from mvss.runtime.files import atomic_write_bytes, atomic_write_text
from mvss.runtime.locks import locked

NAMED = 5
"""Of what is missing so many are named."""
COPIED = tuple(f"{name}.{kind}" for name in ("growth", "scale", "sweep") for kind in ("json", "md"))
OF_A_SEED = ("config.yaml", "environment.json", "metrics.jsonl")


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Command line; returns the exit status. root: the folder that holds results/."""
    parser = argparse.ArgumentParser(prog="publish")
    parser.add_argument("run", help="the folder of a run, <experiment>/<preset> under results/runs or where OUT= was")
    parser.add_argument("--partial", action="store_true", help="also of a run that is not finished")
    options = parser.parse_args(arguments)
    return report_errors("publish", lambda: publish(Path(options.run).expanduser(), root, options.partial))


def publish(folder: Path, root: Path, partial: bool = False) -> int:
    """Report a run and bring what is committed of it into `root`/results/<experiment>/<preset>.

    Raises:
        MvssError: the run is not finished, or rows would be lost, and `partial` does not say so; the published results have
            other seeds; the folder is no run; a file cannot be read or written.
    """
    experiment, target, seeds = _checked(folder, root)
    with locked(folder / "lock"), locked(target / "lock"):
        paths = [path for seed in seeds if (path := folder / f"seed-{seed}" / "config.yaml").exists()]
        if not paths:
            raise MvssError(f"{folder} has no table yet: let the run finish")
        config = load_config(experiment.schema, paths[0])
        found = report(experiment, config, seeds, folder)
        kept = kept_rows(experiment, config, target, {_kind(job) for job in found.jobs})
        if other := sorted(set(_seeds(target)) - set(found.seeds) - kept.keys()):
            raise MvssError(f"{target} has seeds {other} which {folder} has not: run them too, or remove them there first")
        there = {kind_of(record) for records in kept.values() for record in records}
        undone = [job for job in _asked(config, seeds, folder) if job not in found.jobs and _kind(job) not in there]
        lacking = [*map(name_of, undone), *_lost(target, found, there)]
        if lacking and not partial:
            raise MvssError(f"the run is not finished: {_listed(lacking)}; finish it, or say ARGS=--partial")
        copied = list(_files(found, folder))
        for path in copied:
            atomic_write_bytes(target / path, (folder / path).read_bytes())
        figures = _joined(experiment, config, folder, target, found, kept)
        _keep_times(config, folder, target)
    said = f", older rows of {_listed(sorted({f'{p} {m}' for _, p, m, _ in there}))}" if there else ""
    said += f", partial: without {_listed(lacking)}" if lacking else ""
    print(f"published: {target} ({len(copied)} files{said})")
    if older := sorted({p.name for p in (target / "figures").glob("*")} - {path.name for path in figures}):
        print(f"older figures, which this table does not hold, are there still: {', '.join(older)}")
    return 0


def _checked(folder: Path, root: Path) -> tuple[Experiment, Path, list[int]]:
    """The experiment of a run, where its results are published, and the seeds that it has."""
    if folder.resolve().name.startswith(OVERRIDES):
        raise MvssError(f"{folder} is of a run with ARGS: only runs of a preset as it is are published")
    name, preset = ("", "", *folder.resolve().parts)[-2:]
    experiment: Experiment = experiment_named(name, folder)
    target = root / "results" / name / preset
    if folder.resolve() == target.resolve():
        raise MvssError(f"{folder} is what is published: name the folder of the run")
    if tuned := [seed for seed in _seeds(folder) if tunes(seed)]:
        raise MvssError(f"{folder} has seeds {tuned}, which tune and are not published: move them elsewhere")
    if not (seeds := _seeds(folder)):
        raise MvssError(f"{folder} holds no run: name a folder <experiment>/<preset> that a run has written")
    return experiment, target, seeds


def _joined(
    experiment: Experiment, config: Config, folder: Path, target: Path, found: Report, kept: Mapping[int, list[dict[str, Any]]]
) -> list[Path]:
    """Put older rows to those of the run, problems in the preset's order, and make the table and the figures of all; the files
    of the figures."""
    places = {problem: place for place, problem in enumerate(config.problems)}
    for seed, records in kept.items():
        home = Path(f"seed-{seed}")
        own = read_metrics(folder / home / "metrics.jsonl", seed) if seed in found.seeds else []
        joined = sorted([*own, *records], key=lambda record: places.get(record["problem"], len(places)))
        write_metrics(target / home / "metrics.jsonl", joined)
        save_config(config, target / home / "config.yaml")  # which says the same of them
    every = read_seeds(target, {*found.seeds, *kept})
    table = rebuild(experiment, target, every)
    return experiment.figures(Results(target, table, every, config.problems, min(every)))


def _kind(job: Job) -> Kind:
    return job.seed, job.problem, job.method, job.audit


def _keep_times(config: Config, folder: Path, target: Path) -> None:
    """How long the jobs took, beside what is known of others that the preset has."""
    asked = jobs_of(config, [0], ablations=True, audit=True)
    if times := times_of(asked, read_times(target / "times.json") | own_times(folder)):
        atomic_write_text(target / "times.json", times_text(times))


def _seeds(folder: Path) -> list[int]:
    """Those that a folder has, begun or finished."""
    names = (path.name.removeprefix("seed-") for path in folder.glob("seed-*") if path.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


def _asked(config: Config, seeds: Sequence[int], folder: Path) -> list[Job]:
    """The jobs of a finished run: all methods, and all ablations and audits where any was begun."""

    def begun(jobs: Sequence[Job]) -> Sequence[Job]:
        return jobs if any((place_of(job, folder) / "key").exists() for job in jobs) else ()

    jobs = jobs_of(config, seeds)
    jobs += begun([job for job in jobs_of(config, seeds, ablations=True) if job not in jobs])
    return [*jobs, *begun([replace(job, audit=True) for job in jobs if job.method in config.audit.methods])]


def _lost(target: Path, found: Report, kept: Iterable[Kind]) -> Iterator[str]:
    """Rows of the published table that the new one will not have, by problem and method; an audit's apart."""
    path = target / "table.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []

    def kinds(rows: Iterable[Mapping[str, str]]) -> dict[str, None]:
        return dict.fromkeys(f"{r['problem']} {r['method']}{' audit' * is_audit(r['metric'])}" for r in rows)

    there = {*kinds(found.table["rows"]), *(f"{problem} {method}{' audit' * audit}" for _, problem, method, audit in kept)}
    yield from (f"the published {kind}" for kind in kinds(rows) if kind not in there)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _files(found: Report, folder: Path) -> Iterator[Path]:
    """What is published, by its place in the folder."""
    yield from (Path(name) for name in COPIED if (folder / name).exists())
    for seed in found.seeds:
        home = Path(f"seed-{seed}")
        yield from (home / name for name in OF_A_SEED if (folder / home / name).exists())
    for job in found.jobs:
        if job.seed == found.seeds[0] and samples_of(job, folder).exists():
            yield samples_of(job, folder).relative_to(folder)


if __name__ == "__main__":
    raise SystemExit(main())
