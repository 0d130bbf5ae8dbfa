"""Sources in R^8 that no Gaussian resembles: their law is known, and what scores share nothing with what learns."""

from __future__ import annotations

import pytest
import torch

from experiments.manifolds.data import ManifoldTask
from experiments.manifolds.surfaces import SPACE, make_clouds


@pytest.mark.parametrize("place", range(3), ids=["sheet", "ring", "spikes"])
def test_draws_have_the_law_that_is_said(place: int) -> None:
    cloud = make_clouds(3)[place]
    x = cloud.sample(20_000, torch.Generator().manual_seed(0), stratified=True)
    law = cloud.polyline(0)
    mean = law.weights @ law.means
    about = law.means - mean
    covariance = torch.einsum("k,kij->ij", law.weights, law.covariances) + (law.weights[:, None] * about).mT @ about
    torch.testing.assert_close(torch.cov(x.T), covariance, atol=0.06, rtol=0.05)
    full = torch.linalg.eigvalsh(covariance)
    assert full[0] > 0.01  # of full rank
    gaussian = torch.distributions.MultivariateNormal(mean, covariance)
    gain = float((law.log_prob(x) - gaussian.log_prob(x)).mean())
    assert gain > 0.5  # nats that one Gaussian lacks


def test_observations_are_of_five_numbers_and_other_draws_are_scored() -> None:
    task = ManifoldTask("surfaces", 0, 30, 20)
    assert [view.sources for view in task.train] == [("1",), ("1", "2"), ("1", "2", "3")]
    assert task.train[2].y.shape == (30, 5) and task.train.shapes["3"] == (SPACE,)
    for alpha in range(3):
        for old, new in zip(task.train_truth[alpha], task.fresh_truth[alpha], strict=True):
            assert float(torch.cdist(old, new).min()) > 1e-6
    assert task.training_sources(0, 7).shape == (7, SPACE)
    again = ManifoldTask("surfaces", 0, 30, 20)
    assert torch.equal(task.train[1].y, again.train[1].y)
    assert not torch.equal(task.exact_priors()[0].means, ManifoldTask("surfaces", 1, 5, 5).exact_priors()[0].means)
