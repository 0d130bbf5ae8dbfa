"""Small convolutional classifiers that judge separated images.

    of digits of other classes       Fréchet distances are taken in its features: it has seen none like those that are scored
    of digits, ten classes           its answers tell whether draws are digits
    of digits left in grass, two     whether separated grass can be told from grass that never had a digit on it

Trained on labelled images, once for each set of them, and kept in data/.
"""

from __future__ import annotations

__all__ = ["Classifier", "trained_classifier", "with_remains"]

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.mnist_grass.digits import DATA
from mvss.runtime.checkpoints import load_checkpoint, save_checkpoint
from mvss.runtime.rng import generator

EPOCHS, BATCH, RATE = 12, 64, 2e-3
HELD_OUT = 0.1


class Classifier(nn.Module):
    """Classes of images `(N, 1, 28, 28)`. accuracy: on labelled images that it was not trained on."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.accuracy = float("nan")
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 49, 32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(N, classes)`."""
        return self.head(self.body(x.float()))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """`(N, 32)`, float64."""
        return self.body(x.float()).double()

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        """The likeliest class, `(N,)`."""
        return self(x).argmax(1)


def trained_classifier(images: Tensor, labels: Tensor, classes: int = 10, folder: Path = DATA) -> Classifier:
    """Trained on images `(N, 1, 28, 28)` in [0, 1] with labels `(N,)`, read back where that was done before."""
    key = hashlib.sha256(images.float().numpy().tobytes() + labels.numpy().tobytes()).hexdigest()[:16]
    path, model = folder / f"classifier-{key}.safetensors", Classifier(classes)
    if path.exists():
        state = load_checkpoint(path)
        model.load_state_dict(state["model"])
        model.accuracy = state["accuracy"]
        return model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(generator(0, "classifier").initial_seed())
        model = Classifier(classes)
        _train(model, images, labels)
    save_checkpoint(path, {"model": model.state_dict(), "accuracy": model.accuracy})
    return model


def with_remains(grass: Tensor, digits: Tensor, amplitude: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Grass `(N, 1, 28, 28)` as it is, and the same with up to ± `amplitude` of a digit on it, and labels 0, 1."""
    picked = digits[torch.randint(len(digits), (len(grass),), generator=rng)]
    weight = amplitude * (2 * torch.rand(len(grass), 1, 1, 1, generator=rng, dtype=grass.dtype) - 1)
    return torch.cat([grass, grass + weight * picked]), torch.arange(2).repeat_interleave(len(grass))


def _train(model: Classifier, images: Tensor, labels: Tensor) -> None:
    rng = generator(0, "classifier", "order")
    order = torch.randperm(len(images), generator=rng)
    aside, rest = order.split([int(HELD_OUT * len(order)), len(order) - int(HELD_OUT * len(order))])
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS)
    for _ in range(EPOCHS):
        for rows in rest[torch.randperm(len(rest), generator=rng)].split(BATCH):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        schedule.step()
    model.eval()
    model.accuracy = float((model.classes(images[aside]) == labels[aside]).double().mean())
