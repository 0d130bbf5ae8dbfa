"""Models by name: folders, those to try in a clone, and repositories of a stand-in for the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import huggingface_hub.constants
import pytest
import torch

import mvss.posteriors.pretrained as pretrained
from mvss import MvssError, NetworkConfig, PriorConfig, Settings, SourceSeparator, View
from mvss.estimation import Estimate
from mvss.priors.gaussian_mixture import GaussianMixture
from mvss.priors.principal_factors import factors_of
from mvss.runtime.rng import Stream

COMMIT = "a" * 40


@dataclass
class Hub:
    """repositories: folders by name. asked: the paths of all requests."""

    repositories: dict[str, Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, content and headers."""
        self.asked.append(path)
        path = path.partition("?")[0]
        for name, folder in self.repositories.items():
            files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
            if path.startswith(f"/api/models/{name}/tree/"):
                tree = [
                    {"type": "file", "path": file, "size": p.stat().st_size, "oid": hashlib.sha1(p.read_bytes()).hexdigest()}
                    for file, p in files.items()
                ]
                return 200, json.dumps(tree).encode(), {}
            if path == f"/api/models/{name}" or path.startswith(f"/api/models/{name}/revision/"):
                about = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files], "tags": []}
                return 200, json.dumps(about).encode(), {}
            for file, p in files.items():
                if path.startswith(f"/{name}/resolve/") and path.endswith(f"/{file}"):
                    data = p.read_bytes()
                    return 200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return 404, b"", {"X-Error-Code": "RepoNotFound"}


def at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """As HF_ENDPOINT says it before anything is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content, headers = found.answer(self.path)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    at(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pretrained, "READY", tmp_path / "pretrained")
    yield found
    server.shutdown()
    server.server_close()


def model() -> SourceSeparator:
    views = [View(torch.ones(4, 2), {source: torch.eye(2)}, 1.0, source) for source in ("a", "b")]
    factors = torch.tensor([[[1.0, 0.0], [0.0, 1e-6]], [[0.7, 0.3], [0.7, 0.3]]])
    prior = GaussianMixture(torch.tensor([0.3, 0.7]), torch.randn(2, 2, generator=torch.manual_seed(0)), factors, 0.1)
    settings = Settings(prior=PriorConfig(NetworkConfig(hidden=(32,), embedding=8), closed=("b",)))
    made = SourceSeparator(settings).begin(views, Estimate({"a": prior, "b": prior}), seed=0)
    with torch.no_grad():
        for weights in made.priors["a"].parameters():
            weights.add_(0.1)
    return made


VIEW = View(torch.ones(5, 2), {"a": torch.eye(2), "b": torch.eye(2)}, 0.5)


def test_a_folder_is_a_folder_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "galaxies", "user/repo"):
        model().save_pretrained(name)
        assert SourceSeparator.from_pretrained(name).sources == ("a", "b")
        assert SourceSeparator.from_pretrained(Path(name)).sources == ("a", "b")
    assert hub.asked == []


def test_a_clone_has_its_own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    monkeypatch.chdir(tmp_path)
    model().save_pretrained(tmp_path / "pretrained" / "galaxies")
    assert SourceSeparator.from_pretrained("galaxies").sources == ("a", "b")
    with pytest.raises(MvssError, match=r"not in .*pretrained yet: make mnist-grass PRESET=cpu, then make pre"):
        SourceSeparator.from_pretrained("mnist-grass")  # a clone does not ask the hub for what it could make
    assert hub.asked == []


@pytest.mark.parametrize("name", ["galaxies", "galaxies/", "./galaxies"])
def test_a_folder_without_a_finished_model_is_not_another_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    """Nor is a folder that is not there, where a path was given."""
    monkeypatch.chdir(tmp_path)
    model().save_pretrained(tmp_path / "pretrained" / "galaxies")
    if "/" in name:
        with pytest.raises(MvssError, match=r"galaxies holds no readable separator\.json"):
            SourceSeparator.from_pretrained(name)
    (tmp_path / "galaxies" / "fit").mkdir(parents=True)
    with pytest.raises(MvssError, match=r"galaxies holds no readable separator\.json"):
        SourceSeparator.from_pretrained(name)
    assert hub.asked == []


@pytest.mark.parametrize("name", [3, None, b"galaxies"])
def test_a_name_is_text_or_a_path(name: object) -> None:
    with pytest.raises(MvssError, match="the name of a model must be text or a path, not "):
        SourceSeparator.from_pretrained(name)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "repository"), [("mnist-grass", "mvss/mnist-grass"), ("user/my-mixture", "user/my-mixture")])
def test_what_is_not_here_comes_from_the_hub_once(name: str, repository: str, tmp_path: Path, hub: Hub) -> None:
    hub.repositories[repository] = tmp_path / "there"
    model().save_pretrained(tmp_path / "there")
    (tmp_path / "there" / "evil.py").write_text("1 / 0")
    found = SourceSeparator.from_pretrained(name)
    torch.testing.assert_close(found.separate(VIEW), model().separate(VIEW))
    assert not any("evil" in path for path in hub.asked if "/resolve/" in path)
    fetched = len([path for path in hub.asked if "/resolve/" in path])
    SourceSeparator.from_pretrained(name)
    assert 0 < fetched == len([path for path in hub.asked if "/resolve/" in path])
    hub.repositories.clear()  # what was fetched stays
    assert SourceSeparator.from_pretrained(name).sources == ("a", "b")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mnist-gras", "there is no model 'mnist-gras': did you mean 'mnist-grass'?"),
        ("mnist-grass", "mvss/mnist-grass is not on the hub, or private: clone the repository, whose pretrained/ has it"),
        ("user/nothing", "user/nothing is no folder here, and is not on the hub, or private: name a folder"),
        ("user/other", "user/other is no folder here, and is on the hub, but no model of mvss: name a folder"),
        ("a/b/c", "a/b/c holds no readable separator.json: name a folder"),
    ],
)
def test_what_is_nowhere_is_told_in_one_line(name: str, says: str, tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "README.md").write_text("something else")
    hub.repositories["user/other"] = tmp_path / "there"
    with pytest.raises(MvssError) as caught:
        SourceSeparator.from_pretrained(name)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_it_is_told_too(offline: bool, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    at(monkeypatch, "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(MvssError, match="cannot be fetched from the hub, which does not answer: clone") as caught:
        SourceSeparator.from_pretrained("galaxies")
    assert "\n" not in str(caught.value)


def test_half_precision_is_small_and_reads_back_in_full(tmp_path: Path) -> None:
    whole = model()
    whole.save_pretrained(tmp_path / "whole")
    whole.save_pretrained(tmp_path / "half", half=True)
    sizes = [sum(p.stat().st_size for p in (tmp_path / name).rglob("diffusion*")) for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    read = SourceSeparator.from_pretrained(tmp_path / "half")
    kinds = {weights.dtype for weights in read.priors["a"].network.parameters()}
    assert kinds == {torch.float32} and read.priors["b"].mixture.means.dtype == torch.float64
    x = torch.randn(50, 2, generator=torch.manual_seed(1), dtype=torch.float64)
    for level in (0.1, 1.0, 3.0):
        sigma = torch.full((50,), level, dtype=torch.float64)
        found, known = (each.priors["a"].denoise(x, sigma) for each in (read, whole))
        torch.testing.assert_close(found, known, rtol=0.01, atol=0.01)
    torch.testing.assert_close(read.log_prob("b", x), whole.log_prob("b", x), rtol=0.01, atol=0.01)
    read.save_pretrained(tmp_path / "again", half=True)
    torch.testing.assert_close(SourceSeparator.from_pretrained(tmp_path / "again").separate(VIEW), read.separate(VIEW))


def test_a_packed_mixture_is_the_same_law() -> None:
    """Of few directions, with a number that does not vary, and of as many directions as numbers."""
    rng = torch.Generator().manual_seed(0)
    few = torch.randn(2, 6, 3, generator=rng, dtype=torch.float64)
    factors = few @ torch.randn(2, 3, 6, generator=rng, dtype=torch.float64)
    factors[:, 4] = 0.0
    for case, entries in ((factors, 5 * 3 - 3), (torch.randn(2, 6, 6, generator=rng, dtype=torch.float64), 21)):
        whole = GaussianMixture(torch.ones(2), torch.randn(2, 6, generator=rng), case, 0.2, (1, 2, 3))
        packed = whole.packed()
        assert packed["entries"].shape == (2, entries) and packed["entries"].dtype == torch.float16
        read = GaussianMixture.unpacked(packed)
        assert read.shape == (1, 2, 3)
        torch.testing.assert_close(read.covariances, whole.covariances, rtol=2e-3, atol=2e-3)
        x = whole.sample(20, Stream(0))
        torch.testing.assert_close(read.log_prob(x), whole.log_prob(x), rtol=0, atol=0.05)
    nothing = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.zeros(1, 3, 3), 0.1)
    torch.testing.assert_close(GaussianMixture.unpacked(nothing.packed()).covariances, nothing.covariances)


@pytest.mark.parametrize("quick", [True, False])
def test_few_columns_and_a_variance_of_each_number_are_kept_as_such(quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where LAPACK's quick algorithm gives up, as it may where many numbers hardly vary."""

    def fails(_: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("too many repeated eigenvalues")

    if not quick:
        monkeypatch.setattr(torch.linalg, "eigh", fails)
    rng = torch.Generator().manual_seed(0)
    w, own = torch.randn(2, 90, 6, generator=rng).double(), torch.rand(2, 90, generator=rng).double() + 0.05
    own[:, :10], w[:, :10] = 0.04, 0.0  # numbers that hardly vary
    mixture = GaussianMixture(torch.ones(2), torch.randn(2, 90, generator=rng), factors_of(w, own, 0.2), 0.2)
    torch.testing.assert_close(mixture.covariances, w @ w.mT + torch.diag_embed(own))
    packed = mixture.packed()
    assert packed["columns"].shape == (2, 90, 8) and "entries" not in packed
    torch.testing.assert_close(GaussianMixture.unpacked(packed).covariances, mixture.covariances, atol=5e-3, rtol=2e-3)
    full = GaussianMixture(torch.ones(1), torch.zeros(1, 90), torch.randn(1, 90, 90, generator=rng), 0.2)
    assert "entries" in full.packed()
