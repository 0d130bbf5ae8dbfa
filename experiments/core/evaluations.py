"""How often networks are asked: what a draw costs, on whatever machine."""

from __future__ import annotations

__all__ = ["Count", "counted"]

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mvss.separator import SourceSeparator


@dataclass
class Count:
    """Rows that networks were evaluated on."""

    rows: int = 0

    def add(self, _module: torch.nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:  # noqa: ANN401 - a hook
        """For `register_forward_hook`."""
        self.rows += len(inputs[0])


@contextmanager
def counted(model: SourceSeparator) -> Iterator[Count]:
    """Count the evaluations of the networks of a model, those of priors and of posteriors that were learned."""
    count, learned = Count(), model.amortised.values()
    networks = [p.network for p in model.priors.values()] + [m.network for m in learned]
    networks += [m.guess.network for m in learned if m.guess is not None]
    with ExitStack() as hooks:
        for network in networks:
            if network is not None:
                hooks.callback(network.register_forward_hook(count.add).remove)
        yield count
