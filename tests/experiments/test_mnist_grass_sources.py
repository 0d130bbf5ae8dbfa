"""Where the pixels come from: embedded data are what they were, and what a user brings or fetches is used or refused."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.core.cache import ROOT, estimate_key, settings_key
from experiments.core.cli import main, read_command
from experiments.core.places import jobs_of
from experiments.mnist_grass import digits
from experiments.mnist_grass.__main__ import EXPERIMENT
from experiments.mnist_grass.config import MnistGrassConfig
from experiments.mnist_grass.data import MnistGrassTask
from experiments.mnist_grass.digits import mnist_digits
from experiments.mnist_grass.textures import texture_named
from mvss.runtime.errors import MvssError


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    mnist_digits.cache_clear()
    texture_named.cache_clear()
    yield
    mnist_digits.cache_clear()
    texture_named.cache_clear()


def _checksum(task: MnistGrassTask) -> str:
    digest = hashlib.sha256()
    for data, truth in ((task.train, task.train_truth), (task.fresh, task.fresh_truth)):
        for view, pair in zip(data, truth, strict=True):
            for x in (view.y, *pair):
                digest.update(x.numpy().tobytes())
    for source in (0, 1):
        digest.update(task.sample_truth(source, 5, torch.Generator().manual_seed(0)).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("problem", "recorded"), [("full", "267c4304fecaa5c6"), ("downsampled", "41a1d33a979bb477")])
def test_embedded_data_are_what_they_always_were(problem: str, recorded: str) -> None:
    assert _checksum(MnistGrassTask(problem, 0, MnistGrassConfig(observations=20, fresh=8))).startswith(recorded)


def _write_photographs(folder: Path, count: int, first: int = 0) -> list[Path]:
    """Each of one brightness and its own, in several formats, sizes and modes, with faint noise."""
    folder.mkdir(exist_ok=True)
    paths = []
    for i in range(first, first + count):
        rng = np.random.default_rng(i)
        pixels = (20 + 20 * i + rng.integers(0, 4, (120 + 10 * i, 150, 3))).astype(np.uint8)
        image = Image.fromarray(pixels).convert(("RGB", "L")[i % 2])
        paths.append(folder / f"{i}{('.png', '.JPEG', '.bmp')[i % 3]}")
        image.save(paths[-1])
    return paths


def _task(folder: Path, problem: str = "full") -> MnistGrassTask:
    return MnistGrassTask(problem, 0, MnistGrassConfig(texture=str(folder), observations=12, fresh=8))


def test_photographs_are_split_into_sets_that_share_none(tmp_path: Path) -> None:
    _write_photographs(tmp_path, 9)
    texture = texture_named(str(tmp_path))
    orders = []
    for seed in (0, 1):
        seen = []
        for part in ("view 1", "view 2", "fresh"):
            found = texture.crops(part, 200, torch.Generator().manual_seed(0), seed)
            assert found.shape == (200, 1, 28, 28) and found.dtype == torch.float64
            seen.append({round(float(255 * x.mean() - 21.5) / 20) for x in found})
        assert [len(s) for s in seen] == [5, 2, 2]
        assert set.union(*seen) == set(range(9))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_crops_of_photographs_reach_all_of_them_turned_and_mirrored(tmp_path: Path) -> None:
    ramp = np.add.outer(np.arange(100), 1.5 * np.arange(100)).astype(np.uint8)  # at most 247.5, steps of 1 and 1.5
    for i in range(4):
        Image.fromarray(ramp + np.uint8(i)).save(tmp_path / f"{i}.png")
    found = texture_named(str(tmp_path)).crops("view 1", 400, torch.Generator().manual_seed(0), 0) * 255
    assert float(found.min()) < 8 and float(found.max()) > 240
    down, right = (found[:, 0, -1] - found[:, 0, 0]).mean(-1), (found[:, 0, :, -1] - found[:, 0, :, 0]).mean(-1)
    # the steeper way is down, up, right or left, and the other one either way
    ways = {(bool(d.abs() > r.abs()), bool(d > 0), bool(r > 0)) for d, r in zip(down, right, strict=True)}
    assert len(ways) == 8
    again = texture_named(str(tmp_path)).crops("view 1", 400, torch.Generator().manual_seed(0), 0) * 255
    assert torch.equal(found, again)


def test_neither_names_nor_other_files_matter_but_contents_do(tmp_path: Path) -> None:
    paths = _write_photographs(tmp_path, 6)
    before, expected = MnistGrassConfig(texture=str(tmp_path)).photographs, _checksum(_task(tmp_path))
    for i, path in enumerate(paths):
        path.rename(tmp_path / f"{9 - i}-renamed{path.suffix.lower()}")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._0.png").write_bytes(b"what macOS leaves beside files")
    (tmp_path / "copy.png").write_bytes((tmp_path / "9-renamed.png").read_bytes())
    texture_named.cache_clear()
    assert MnistGrassConfig(texture=str(tmp_path)).photographs == before
    assert _checksum(_task(tmp_path)) == expected
    _write_photographs(tmp_path, 1, first=7)
    texture_named.cache_clear()
    assert MnistGrassConfig(texture=str(tmp_path)).photographs != before
    assert _checksum(_task(tmp_path)) != expected


def test_other_photographs_make_a_job_stale(tmp_path: Path) -> None:
    def keys() -> set[str]:
        texture_named.cache_clear()
        command = read_command(EXPERIMENT, ["--preset", "smoke", "--", f"texture={tmp_path}"], ROOT)
        job = jobs_of(command.config, [0])[0]
        return {settings_key(job, EXPERIMENT.data), estimate_key(job, EXPERIMENT.data)}

    _write_photographs(tmp_path, 4)
    before = keys()
    assert keys() == before
    _write_photographs(tmp_path, 1, first=4)
    assert not keys() & before


def test_photographs_that_change_during_a_run_are_noticed(tmp_path: Path) -> None:
    _write_photographs(tmp_path, 4)
    config = MnistGrassConfig(texture=str(tmp_path), observations=12, fresh=8)
    _write_photographs(tmp_path, 1, first=4)
    texture_named.cache_clear()
    with pytest.raises(MvssError, match="changed during the run"):
        MnistGrassTask("full", 0, config)


def _deep(path: Path) -> None:
    Image.fromarray(np.full((50, 50), 40000, np.uint16)).save(path)


def _half(path: Path, whole: str) -> None:
    content = (path.parent / whole).read_bytes()
    path.write_bytes(content[: len(content) // 2])


BROKEN: dict[str, Callable[[Path], object]] = {
    "empty.jpg": lambda p: p.write_bytes(b""),
    "text.png": lambda p: p.write_text("no image"),
    "cut.bmp": lambda p: _half(p, "2.bmp"),
    "cut.jpeg": lambda p: _half(p, "1.JPEG"),
    "cut.png": lambda p: _half(p, "0.png"),
    "header.png": lambda p: p.write_bytes((p.parent / "0.png").read_bytes()[:20]),
    "folder.png": lambda p: p.mkdir(),
    "deep.png": _deep,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_photograph_is_named_and_nothing_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_photographs(tmp_path / "photographs", 4)
    BROKEN[name](tmp_path / "photographs" / name)
    run = ["--preset", "smoke", "--", f"texture={tmp_path / 'photographs'}"]
    assert main(EXPERIMENT, run, tmp_path) == 2
    said = capsys.readouterr().err
    assert name in said and "in its place, or none" in said and said.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["photographs"]


def test_a_folder_with_too_little_is_refused(tmp_path: Path) -> None:
    for missing in ("", str(tmp_path / "nowhere")):
        with pytest.raises(MvssError, match="nor a folder"):
            MnistGrassConfig(texture=missing)
    with pytest.raises(MvssError, match=r"holds 0 different photographs .* at least 4"):
        MnistGrassConfig(texture=str(tmp_path))
    paths = _write_photographs(tmp_path, 3)
    (tmp_path / "copy.png").write_bytes(paths[0].read_bytes())
    with pytest.raises(MvssError, match="holds 3 different"):
        MnistGrassConfig(texture=str(tmp_path))
    with pytest.raises(MvssError, match="nor a folder"):
        MnistGrassConfig(texture=str(paths[0]))


def _fetched(count: int = 60, pixels: int = 784) -> SimpleNamespace:
    """What `fetch_openml` returns for MNIST, but for the number of rows."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (count, pixels)).astype(np.float64)
    return SimpleNamespace(data=data, target=np.array([str(i % 10) for i in range(count)], dtype=object))


def test_all_of_mnist_comes_from_openml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def fetch(name: str, **options: object) -> SimpleNamespace:
        asked.append((name, options))
        return _fetched()

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    monkeypatch.setattr(digits, "DATA", tmp_path)
    config = MnistGrassConfig(mnist="openml", digits=(3, 5), observations=7, fresh=5)
    task, again = MnistGrassTask("full", 0, config), MnistGrassTask("full", 0, config)
    ((name, options),) = asked
    assert (name, options["version"], options["data_home"]) == ("mnist_784", 1, str(tmp_path))
    known = {row.tobytes() for row, digit in zip(_fetched().data / 255, _fetched().target, strict=True) if digit in "35"}
    used = torch.cat([task.train_truth[1][1], task.fresh_truth[1][1]]).flatten(1).numpy()
    assert {row.tobytes() for row in used} == known and len(used) == 12
    assert _checksum(task) == _checksum(again)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (ValueError("md5 checksum of local file does not match\nsecond line"), "md5 checksum"),
        (http.client.IncompleteRead(b"half"), "IncompleteRead"),
        (EOFError(), "EOFError"),
    ],
)
def test_a_failed_download_is_one_line_and_writes_nothing(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(*_: object, **__: object) -> SimpleNamespace:
        raise error

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    assert main(EXPERIMENT, ["--preset", "smoke", "--", "mnist=openml"], tmp_path) == 2
    notice, said = capsys.readouterr().err.split("\n", 1)
    assert "55 MB" in notice
    assert says in said and "run the same command again" in said and "embedded" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [_fetched(pixels=64), SimpleNamespace(data=_fetched().data, target=np.array(["x"] * 60))])
def test_what_is_not_mnist_is_refused(wrong: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *_, **__: wrong)
    with pytest.raises(MvssError, match="is not MNIST"):
        mnist_digits("openml")
