"""Where a model lies that is named: a folder, one of those to try, or a repository of the Hugging Face hub.

    "my-mixture"     a folder that is here, whatever it holds; "my-mixture/" and "./my-mixture" are never anything else
    "mnist-grass"    one of MODELS: in a clone of this repository pretrained/mnist-grass, elsewhere from the hub
    "user/repo"      a repository of the hub, fetched once and kept in the hub's own cache

Of a repository nothing is fetched but what `saved` writes, JSON and safetensors, which run no code.
"""

from __future__ import annotations

__all__ = ["MODELS", "READY", "model_folder"]

import re
from pathlib import Path

from mvss.posteriors.saved import ABOUT
from mvss.presets.reader import suggest
from mvss.runtime.errors import MvssError

MODELS = ("manifolds", "mnist-grass", "galaxies")
"""Those to try: what `make pretrained` makes of the experiments."""
READY = Path(__file__).resolve().parents[2] / "pretrained"
"""Where a clone has them."""
HUB = "mvss/{}"
"""Their repositories."""
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def model_folder(name: Path | str) -> Path:
    """The folder of a model, which is downloaded where it has to be. name: see the module; a path is always a folder.

    Raises MvssError for a model that neither this machine nor the hub has, and for what is no name.
    """
    if not isinstance(name, Path | str):
        raise MvssError(f"the name of a model must be text or a path, not {type(name).__name__}")
    folder = Path(name).expanduser()
    if isinstance(name, Path) or folder.is_dir():
        return folder
    if name in MODELS:
        own, repository = READY / name, HUB.format(name)
        if (own / ABOUT).exists():
            return own
        if READY.is_dir():  # a clone knows what it has
            made = f"make {name} PRESET=cpu, then make pretrained RUN=results/runs/{name.replace('-', '_')}/cpu"
            raise MvssError(f"the model {name} is not in {READY} yet: {made}")
        advice = "clone the repository, whose pretrained/ has it, or name a folder"
        return _fetched(repository, repository, advice)
    if not folder.exists() and REPOSITORY.fullmatch(name):
        advice = "name a folder written by save_pretrained, or a repository that is there"
        return _fetched(name, f"{name} is no folder here, and", advice)
    if not folder.exists() and "/" not in name:
        raise MvssError(f"there is no model {name!r}{suggest(name, MODELS)}, or a folder written by save_pretrained")
    return folder


def _fetched(repository: str, what: str, advice: str) -> Path:
    """A snapshot of a repository of the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(snapshot_download(repository, library_name="mvss", allow_patterns=[ABOUT, "model-*/*"]))
    except RepositoryNotFoundError as error:
        raise MvssError(f"{what} is not on the hub, or private: {advice}") from error
    except LocalEntryNotFoundError as error:
        raise MvssError(f"{what} cannot be fetched from the hub, which does not answer: {advice}") from error
    except Exception as error:  # of the hub's library, its network and its cache, which change with its versions
        cause = str(error).strip().partition("\n")[0] or type(error).__name__
        raise MvssError(f"{what} cannot be fetched from the hub ({cause}): {advice}") from error
    if not (folder / ABOUT).exists():
        raise MvssError(f"{what} is on the hub, but no model of mvss: {advice}")
    return folder
