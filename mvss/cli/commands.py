"""The commands. Each reads its words and files, calls `SourceSeparator`, and writes or says what comes out.

mvss check mixture.yaml                                 mvss sample model/ --source target -n 64 --out prior.npz
mvss fit mixture.yaml --out model/                      mvss score model/ candidates.npz --source target
mvss separate model/ new.yaml --draws 16 --out separated.h5
"""

from __future__ import annotations

__all__ = ["program"]

from collections.abc import Sequence
from pathlib import Path

import click

from mvss.cli.program import Program, say
from mvss.io.located import Located
from mvss.io.mixture import read_mixture
from mvss.presets import load_settings

FILE = click.Path(path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
seed = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides every random number.")
a_preset = click.option(
    "--preset", metavar="NAME|FILE", help="Settings: images, signals, vectors, or a YAML file.  [default: by shapes]"
)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mvss", message="%(version)s")
def program() -> None:
    """Separate mixtures of sources that are never seen alone or clean."""


@program.command()
@click.argument("mixture", type=FILE)
@a_preset
@as_json
def check(mixture: Path, preset: str | None, as_json: bool) -> None:
    """Say what MIXTURE (a YAML file) holds, what its views show, and what a fit will take."""
    said = _read(mixture, preset)
    from mvss.cli.work import check_mixture

    found, text = check_mixture(said, preset)
    say(as_json, found, text)


@program.command()
@click.argument("mixture", type=FILE)
@click.option("--out", type=FILE, required=True, help="Folder of the model. The same command goes on with an interrupted fit.")
@a_preset
@seed
@as_json
def fit(mixture: Path, out: Path, preset: str | None, seed: int, as_json: bool) -> None:
    """Learn a prior of every source of MIXTURE (a YAML file)."""
    said = _read(mixture, preset)
    from mvss.cli.work import fit_mixture

    found, text = fit_mixture(said, preset, out, seed)
    say(as_json, found, text)


@program.command()
@click.argument("model")  # no path: what ends in a slash is a folder
@click.argument("mixture", type=FILE)
@click.option("--out", type=FILE, required=True, help="File of the draws: .npz, .h5, .zarr or .fits.")
@click.option("--draws", type=click.IntRange(min=1), default=16, show_default=True, help="Of each observation.")
@seed
@as_json
def separate(model: str, mixture: Path, out: Path, draws: int, seed: int, as_json: bool) -> None:
    """Draw all sources of each observation of MIXTURE from their joint posterior, by MODEL of a fit.

    The file holds view/source/draws, (draws, N, ...), and of several draws view/source/mean and view/source/sd."""
    said = read_mixture(mixture)
    _require_writable(
        out, [f"{name}/{source}/draws" for name, view in said.values["views"].items() for source in view["sources"]]
    )
    from mvss.cli.work import separate_mixture

    found, text = separate_mixture(model, said, out, draws, seed)
    say(as_json, found, text)


@program.command()
@click.argument("model")  # no path: what ends in a slash is a folder
@click.option("--source", required=True, help="Name of a source.")
@click.option("-n", "count", type=click.IntRange(min=1), default=64, show_default=True, help="How many.")
@click.option("--out", type=FILE, required=True, help="File: .npz, .h5, .zarr or .fits.")
@seed
@as_json
def sample(model: str, source: str, count: int, out: Path, seed: int, as_json: bool) -> None:
    """Draw a source of MODEL from its prior."""
    _require_writable(out, [source])
    from mvss.cli.work import sample_prior

    found, text = sample_prior(model, source, count, out, seed)
    say(as_json, found, text)


@program.command()
@click.argument("model")  # no path: what ends in a slash is a folder
@click.argument("candidates")
@click.option("--source", required=True, help="Name of a source.")
@click.option("--out", type=FILE, help="File: .npz, .h5, .zarr or .fits; else a line for each candidate.")
@as_json
def score(model: str, candidates: str, source: str, out: Path | None, as_json: bool) -> None:
    """Log density (nats) of CANDIDATES, an array in a file, under the prior of a source of MODEL."""
    if out is not None:
        _require_writable(out)
    from mvss.cli.work import score_candidates

    found, text = score_candidates(model, candidates, source, out)
    say(as_json, found, text)


def _read(mixture: Path, preset: str | None) -> Located:
    """A mixture and a preset that will do, as far as can be told without its data."""
    if preset is not None:
        load_settings(preset)
    return read_mixture(mixture)


def _require_writable(out: Path, names: Sequence[str] = ()) -> None:
    from mvss.io.results import check_ending

    check_ending(out, names)
