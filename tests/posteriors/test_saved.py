"""A model that is saved over another: whatever ends it, the folder holds the old one or the new one, bit for bit."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mvss import MvssError, NetworkConfig, PriorConfig, Settings, SourceSeparator, View
from mvss.estimation import Estimate
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.runtime.fingerprint import digest

CALLS = ("mkdir", "open", "fsync", "replace", "unlink", "rmdir")
"""What changes a folder, and what makes it last."""


class Killed(BaseException):
    """No clearing up is done after it."""


def model(shift: float, *sources: str) -> SourceSeparator:
    """With networks that have learned nothing, but are no others' either."""
    views = [View(torch.ones(4, 2), {source: torch.eye(2)}, 1.0, source) for source in sources]
    prior = GaussianMixture(torch.ones(1), torch.full((1, 2), shift), torch.eye(2)[None], 0.1)
    settings = Settings(prior=PriorConfig(NetworkConfig(hidden=(4,), embedding=2)))
    made = SourceSeparator(settings).begin(views, Estimate(dict.fromkeys(sources, prior)), seed=0)
    with torch.no_grad():
        for each in made.priors.values():
            for weights in each.parameters():
                weights.add_(shift)
    return made


def content(made: SourceSeparator) -> str:
    return digest([(name, prior.mixture.state(), prior.network.state_dict()) for name, prior in made.priors.items()])


def content_of(folder: Path) -> str:
    return content(SourceSeparator.from_pretrained(folder))


def as_version_2(folder: Path) -> None:
    """The same model as it was written before."""
    about = json.loads((folder / "separator.json").read_text())
    home = folder / about.pop("folder")
    for path in home.iterdir():
        path.rename(folder / path.name)
    home.rmdir()
    del about["sha256"]
    about["version"] = 2
    about["sha256"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    (folder / "separator.json").write_text(json.dumps(about))


OLD, NEW = model(1.0, "a"), model(2.0, "a")


def saved(folder: Path, version: int = 3) -> None:
    OLD.save_pretrained(folder)
    if version == 2:
        as_version_2(folder)
    assert content_of(folder) == content(OLD)


@pytest.mark.parametrize("version", [2, 3])
def test_a_kill_at_any_step_leaves_the_old_model_or_the_new_one(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, folder, found = tmp_path / "before", tmp_path / "model", list[str]()
    saved(before, version)
    ended = False
    while not ended:
        shutil.copytree(before, folder)
        steps = len(found)

        def step(call: Callable[..., object]) -> Callable[..., object]:
            def counted(*arguments: object, **options: object) -> object:
                nonlocal steps
                steps -= 1
                if steps < 0:  # and whatever would be cleared up
                    raise Killed
                return call(*arguments, **options)

            return counted

        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, step(getattr(os, name)))
            try:
                NEW.save_pretrained(folder)
                ended = True
            except Killed:
                pass
        found.append(content_of(folder))
        if len(found) % 5 == 0:
            NEW.save_pretrained(folder)  # nothing that was left is in the way
            assert content_of(folder) == content(NEW)
            there = [path for path in folder.iterdir() if path.suffix != ".tmp"]  # whose writer lives, here
            assert sorted(path.name.partition("-")[0] for path in there) == ["model", "separator.json"]
        shutil.rmtree(folder)
    old = found.index(content(NEW))
    assert 10 < old < len(found) - 1 and set(found[:old]) == {content(OLD)} and set(found[old:]) == {content(NEW)}


def test_a_save_that_fails_leaves_nothing_of_the_new_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    replace, before = os.replace, sorted(tmp_path.rglob("*"))

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "separator.json":
            raise OSError(errno.ENOSPC, "full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MvssError, match="no space left") as caught:
        NEW.save_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before and content_of(tmp_path) == content(OLD)


def test_what_is_not_of_the_model_stays(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("notes.txt", "model-card.md", "network-a", "mixture-1.txt")]
    for path in others:
        path.write_text("mine")
    saved(tmp_path, version=2)
    NEW.save_pretrained(tmp_path)
    assert all(path.read_text() == "mine" for path in others)
    assert len(list(tmp_path.iterdir())) == len(others) + 2


def test_several_that_save_in_one_folder_leave_one_whole_model(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: (OLD, NEW)[number % 2].save_pretrained(tmp_path), range(8)))
    assert content_of(tmp_path) in {content(OLD), content(NEW)} and len(list(tmp_path.iterdir())) == 2
