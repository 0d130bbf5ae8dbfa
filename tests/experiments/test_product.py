"""The file of separated galaxies: whole or not there, and flags that say what they mean."""

from __future__ import annotations

import errno
import os
from dataclasses import fields, replace
from pathlib import Path

import h5py
import pytest
import torch
from blobs import MIDDLE, blob, stamps_of

from experiments.galaxies.data.stamps import NOISE, Stamps
from experiments.galaxies.product import MEANINGS, Flag, Product, joined, make_product, read_product, write_product
from experiments.galaxies.scores.measures import within
from mvss.runtime.errors import MvssError
from mvss.runtime.rng import generator

CARDS = ("CTYPE1  = 'RA---TAN'", "CTYPE1  = 'µ'", "", "", "", "", "", "")


def scene() -> tuple[torch.Tensor, torch.Tensor, Stamps]:
    """Eight galaxies, each but the first two with what raises one flag; draws `(12, 8, 1, n, n)` of sky and galaxy."""
    galaxy = torch.stack([blob(10.0)] * 8)
    sky = torch.stack([blob(2.0, x=MIDDLE + 9)] * 8)
    galaxy[5] = blob(10.0, x=MIDDLE + 3)
    galaxy[6] = blob(0.02)
    sky[4] = blob(40.0)
    sky[6] = -0.01
    stamps = stamps_of(galaxy, sky, ra=torch.linspace(150.0, 151.0, 8, dtype=torch.float64))
    stamps.good[2, :, 14:20, 14:20] = False
    stamps.y[3, :, 13:19, 13:19] += 4 * NOISE
    stamps.catalogue["half_light_radius"][7] = 6.0
    spread = 0.2 * NOISE * torch.randn(12, *galaxy.shape, generator=generator(0, "product"), dtype=torch.float64)
    return sky - spread, galaxy + spread, replace(stamps, wcs=CARDS)


def product(keep: int = 3) -> Product:
    return make_product(*scene(), keep, "nJy", "make galaxies", "0123abc")


def test_statistics_are_those_of_the_draws() -> None:
    _, galaxy, stamps = scene()
    made = make_product(*scene(), 3, "nJy", "make galaxies", "0123abc")
    assert made.draws.shape == (8, 3, 32, 32) and made.mean.dtype == torch.float32
    assert torch.allclose(made.mean[0], galaxy.mean(0)[0, 0].float(), atol=1e-6)
    inside = (within(stamps).sum((1, 2, 3))).double()
    assert (made.flux["sd"] / (0.2 * NOISE * inside.sqrt())).mean().item() == pytest.approx(1.0, abs=0.25)
    assert bool((made.flux["p16"] < made.flux["mean"]).all()) and bool((made.flux["mean"] < made.flux["p84"]).all())


def test_every_flag_is_raised_by_what_it_says_and_by_nothing_else() -> None:
    raised = [Flag(value) for value in product().flags.tolist()]
    assert raised == [Flag(0), Flag(0), Flag.MASKED, Flag.MISFIT, Flag.NEIGHBOURS, Flag.OFF_CENTRE, Flag.FAINT, Flag.CUT]
    assert set(MEANINGS) == set(Flag)
    sky, galaxy, stamps = scene()
    galaxy[:, 0, 0, 16, 16] = torch.nan
    broken = make_product(sky, galaxy, stamps, 3, "nJy", "make galaxies", "0123abc")
    assert [bool(flag & Flag.MISFIT) for flag in broken.flags.tolist()] == [True, False, False, True, *[False] * 4]


def test_parts_are_joined() -> None:
    whole, rows = product(), (slice(0, 3), slice(3, 8))
    sky, galaxy, stamps = scene()
    parts = [make_product(sky[:, r], galaxy[:, r], stamps.select(r), 3, "nJy", "make galaxies", "0123abc") for r in rows]
    found = joined(parts)
    assert torch.equal(found.draws, whole.draws) and torch.equal(found.flags, whole.flags) and found.wcs == whole.wcs
    assert torch.equal(found.flux["p84"], whole.flux["p84"]) and found.catalogue.keys() == whole.catalogue.keys()


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path, made = tmp_path / "new" / "separated.h5", product()
    write_product(path, made)
    found = read_product(path)
    for name in (f.name for f in fields(Product)):
        one, other = getattr(made, name), getattr(found, name)
        if isinstance(one, dict):
            assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
        else:
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    before = path.read_bytes()
    write_product(path, made)
    assert path.read_bytes() == before  # no time of writing in it
    write_product(path, replace(made, wcs=()))
    assert read_product(path).wcs == ()


def test_the_file_explains_itself(tmp_path: Path) -> None:
    write_product(tmp_path / "separated.h5", product())
    with h5py.File(tmp_path / "separated.h5") as file:
        assert "half-light" in file.attrs["aperture"] and file["flux/mean"].attrs["unit"] == "nJy"
        told = {name: int(meaning.split(":")[0]) for name, meaning in file["flags"].attrs.items()}
        assert told == {flag.name: flag.value for flag in Flag}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_told_in_one_line(tmp_path: Path, share: float) -> None:
    path = tmp_path / "separated.h5"
    write_product(path, product())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(MvssError, match="not a whole file") as caught:
        read_product(path)
    assert "\n" not in str(caught.value)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    path, made = tmp_path / "separated.h5", product()
    write_product(path, made)
    content = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        chunk = file["galaxy/mean"].id.get_chunk_info(2)
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(MvssError, match=r"not a whole file .*filter"):
        read_product(path)


def test_what_the_machine_refuses_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "separated.h5"
    write_product(path, product())

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Unable to open file")

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(MvssError, match=f"cannot read {path}: Permission denied$"):
        read_product(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "separated.h5"
    write_product(path, product())
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MvssError, match="no space left"):
        write_product(path, product(keep=6))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MvssError, match="there is no file"):
        read_product(tmp_path / "separated.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(MvssError, match="no file of separated galaxies"):
        read_product(tmp_path / "other.h5")
    with pytest.raises(MvssError, match="as many rows of wcs"):
        replace(product(), wcs=("",))
