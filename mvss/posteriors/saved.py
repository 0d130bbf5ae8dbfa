"""A fitted model in a folder: networks in diffusers' format, mixtures, and what its owner says of it.

    folder/  separator.json  model-HASH/  mixture-N.safetensors  network-N/  amortised-N.safetensors  amortised-N/  guess-N/

N is the place of the source, from 1. separator.json holds the version of this format, the name of model-HASH, and the SHA-256
of every file and of itself: what was damaged or mixed with another model is found out, and code may change as long as the
version stays. HASH is of the files: those of another model lie beside, until separator.json, which is replaced last, names
them. A kill at any point leaves the old model or the new one. (Version 2 had all files beside separator.json,
version 3 no mixtures in few bytes, version 4 but a number for the noise that networks have learned under.)
"""

from __future__ import annotations

__all__ = ["load_models", "save_models"]

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load, save

from mvss.posteriors.amortised import Amortised
from mvss.presets.posterior import SamplerConfig
from mvss.priors.diffusion import DiffusionPrior, Drawing
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.networks import Network, load_weights, network_named
from mvss.priors.prior import Prior
from mvss.priors.regression import Guess
from mvss.runtime.checkpoints import checkpoint_bytes, load_checkpoint
from mvss.runtime.errors import MvssError
from mvss.runtime.files import atomic_write_bytes
from mvss.runtime.locks import locked

VERSION = 5
READ = (2, 3, 4, VERSION)
"""Versions that can be read."""
ABOUT = "separator.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
"""As diffusers names them."""
OURS = re.compile(r"model-[0-9a-f]{16}|(mixture|amortised)-\d+\.safetensors|(network|amortised|guess)-\d+")
"""Names in the folder, of this version and of the one before."""
AGAIN = "copy the whole folder that save_pretrained wrote again"


def save_models(
    folder: Path,
    priors: Mapping[str, Prior],
    amortised: Mapping[str, Amortised],
    about: Mapping[str, Any],
    half: bool = False,
) -> None:
    """Write them, all or none; a model that was there is removed afterwards. about: what else is to be known, as JSON knows it.
    half: in half precision, see `SourceSeparator.save_pretrained`; what is read is full again.

    Raises MvssError where the folder cannot be written.
    """
    files, described = dict[str, bytes](), []
    for number, (source, prior) in enumerate(priors.items(), start=1):
        files[f"mixture-{number}.safetensors"] = checkpoint_bytes(prior.mixture.packed() if half else prior.mixture.state())
        found: dict[str, Any] = {"name": source, "network": isinstance(prior, DiffusionPrior), "amortised": source in amortised}
        if isinstance(prior, DiffusionPrior):
            files |= _network_files(f"network-{number}", prior.network, half)
            found |= {"sigma_data": prior.sigma_data, "drawing": asdict(prior.drawing), "levels": list(prior.levels)}
            found |= {"dynamic": prior.dynamic, "base": prior.base}
        if source in amortised:
            model = amortised[source]
            files |= _network_files(f"amortised-{number}", model.network, half)
            files |= _network_files(f"guess-{number}", model.guess.network, half) if model.guess is not None else {}
            state = {**model.state(), "guess": model.guess is not None}
            files[f"amortised-{number}.safetensors"] = checkpoint_bytes(state)
        described.append(found)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    home = f"model-{_sum(sums)[:16]}"
    content = {"version": VERSION, **about, "sources": described, "folder": home, "files": sums}
    text = json.dumps({**content, "sha256": _sum(content)}, indent=1) + "\n"
    with locked(folder / "lock", wait=True):  # of two that save here, none takes the other's files for older ones
        try:
            for name, data in files.items():
                atomic_write_bytes(folder / home / name, data)
            atomic_write_bytes(folder / ABOUT, text.encode())
        finally:
            _remove_others(folder)


def _remove_others(folder: Path) -> None:
    """What this format wrote and the model that is there does not name; nothing where that cannot be told."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        named = {str(about.get("folder", ""))}
        named |= set() if "folder" in about else {name.partition("/")[0] for name in about["files"]}
    except FileNotFoundError:
        named = set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    for path in folder.iterdir():
        if path.name not in named and OURS.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def load_models(folder: Path) -> tuple[dict[str, Prior], dict[str, Amortised], dict[str, Any]]:
    """What `save_models` wrote, and what was to be known.

    Raises MvssError where the folder is no such model, is damaged, or is of another version.
    """
    content = _read_about(folder / ABOUT)
    folder = folder / content.get("folder", "")
    files = {name: _read(folder / name, expected) for name, expected in content["files"].items()}
    priors: dict[str, Prior] = {}
    amortised: dict[str, Amortised] = {}
    for number, about in enumerate(content["sources"], start=1):
        mixture = GaussianMixture.unpacked(load_checkpoint(folder / f"mixture-{number}.safetensors"))
        priors[about["name"]] = mixture
        if about["network"]:
            drawing = {**about["drawing"], "sampler": SamplerConfig(**about["drawing"]["sampler"])}
            network, levels = _network(folder, f"network-{number}", files), tuple(about["levels"])
            # one of before says no base: under Karras' term its mixture was N(0, s² I), whose denoiser that is
            kind = (about["dynamic"], about.get("base", "mixture"))
            prior = DiffusionPrior(mixture, network, about["sigma_data"], Drawing(**drawing), levels, *kind)
            priors[about["name"]] = prior
        if about["amortised"]:
            state = load_checkpoint(folder / f"amortised-{number}.safetensors")
            guess = Guess(_network(folder, f"guess-{number}", files)) if state.pop("guess") else None
            amortised[about["name"]] = Amortised.read(_network(folder, f"amortised-{number}", files), guess, state)
    return priors, amortised, content


def _read_about(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, expected = content["version"], content.pop("sha256", None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MvssError(f"{path.parent} holds no readable {ABOUT}: name a folder written by save_pretrained") from error
    if version not in READ:
        raise MvssError(f"{path.parent} is of version {version}, and this mvss reads {READ[0]} to {READ[-1]}: learn it again")
    if expected != _sum(content):
        raise MvssError(f"{path} was changed after it was written, its checksum says: {AGAIN}")
    return dict(content)


def _read(path: Path, expected: str) -> bytes:
    """A file, if it is what was written."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MvssError(f"{path} is missing: {AGAIN}") from None
    except OSError as error:
        raise MvssError(f"cannot read {path}: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise MvssError(f"{path} is damaged, or of another model, its checksum says: {AGAIN}")
    return data


def _network_files(folder: str, network: Any, half: bool) -> dict[str, bytes]:  # noqa: ANN401 - one of diffusers'
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    weights |= {name: weights[name].half() for name, _ in network.named_parameters()} if half else {}
    return {
        f"{folder}/config.json": network.to_json_string().encode(),
        f"{folder}/{WEIGHTS}": save(weights, {"format": "pt"}),
    }


def _network(folder: Path, name: str, files: Mapping[str, bytes]) -> Network:
    config = json.loads(files[f"{name}/config.json"])
    network = network_named(config["_class_name"], config)
    load_weights(network, load(files[f"{name}/{WEIGHTS}"]), f"{folder / name}")
    return network.eval()


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
