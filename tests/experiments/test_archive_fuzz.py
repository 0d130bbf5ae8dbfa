"""Odd FITS files by `make galaxies-data ARGS=--dry-run`: what is wrong is refused in one line, what is right passes, and
nothing is a traceback."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from odd_fits import odd_file

from experiments.galaxies.archive.cut import main


def look_at(folder: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> str:
    """What went another way than it should; nothing if all is well."""
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of astropy, where it writes such files
        path, catalogue, right, what = odd_file(folder, seed)
    command = [str(folder), str(catalogue), "--dry-run", "--pixels", "8", "--out", str(folder / "out.h5")]
    before = sorted(folder.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # which would be lines that nobody understands
        code, (out, err) = main(command), capsys.readouterr()
    lines = err.splitlines()
    well = sorted(folder.iterdir()) == before
    if right:
        well &= code == 0 and path.name in out.splitlines()[0] and "would be cut" in out.splitlines()[-1] and "error" not in err
    else:
        well &= code == 1 and len(lines) == 1 and lines[0].startswith("error: ")
    return "" if well else f"{what}: {code}, {out} {err}"


@pytest.mark.parametrize("first", [0, pytest.param(30, marks=pytest.mark.slow)])
def test_odd_files_are_refused_in_a_line_or_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str], first: int) -> None:
    last = 30 if not first else 230
    assert [said for seed in range(first, last) if (said := look_at(tmp_path / str(seed), seed, capsys))] == []
