"""Curvature and landscapes against what can be worked out by hand, and under teleportation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport import curvature, landscapes

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)).double()
Y = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(2))


def loss(net) -> Tensor:
    return F.cross_entropy(net(X), Y)


def network(*more: nn.Module) -> nn.Module:
    return ft.randomize(nn.Sequential(nn.Linear(4, 5), *more, nn.Tanh(), nn.Linear(5, 3)).double()).eval()


def hessian(of: curvature.LossOfWeights, weights: dict[str, Tensor]) -> Tensor:
    """The whole matrix, by torch."""
    names, sizes = list(weights), [w.numel() for w in weights.values()]

    def flat(vector: Tensor) -> Tensor:
        return of({n: v.view(weights[n].shape) for n, v in zip(names, vector.split(sizes), strict=True)})

    return torch.autograd.functional.hessian(flat, torch.cat([w.reshape(-1) for w in weights.values()]))


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([w.reshape(-1) for w in weights.values()])


def test_against_the_whole_hessian() -> None:
    model = network(nn.BatchNorm1d(5))
    of, weights = curvature.at(model, loss), curvature.trainable(model)
    matrix = hessian(of, weights)
    vector = landscapes.random_direction(weights, 3, normalize=False)
    assert torch.allclose(flat(curvature.hvp(of, weights, vector)), matrix @ flat(vector), atol=1e-10)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    value, eigenvector = curvature.top_eigenvalue(of, weights, iterations=2000, tolerance=1e-10)
    assert value == pytest.approx(float(eigenvalues[eigenvalues.abs().argmax()]), rel=1e-5)
    assert torch.allclose(matrix @ flat(eigenvector), value * flat(eigenvector), atol=1e-3)
    mean, error = curvature.trace(of, weights, samples=400)
    assert abs(mean - float(matrix.trace())) < 4 * error


def test_a_teleported_hessian() -> None:
    """D^-1 H D^-1, and the same as the emitted network's."""
    model = network()
    plan = ft.plan(model, X)
    cob = plan.sample(0.6, "inter", seed=2)
    point, emitted = plan.at(cob), plan.rewrite(cob)
    weights = {n: w.detach() for n, w in point.weights.items()}
    found = hessian(curvature.around(point, loss), weights)
    scale = flat({n: point.teleported(n, torch.ones_like(w)) for n, w in weights.items()})
    original = hessian(curvature.at(model, loss), curvature.trainable(model))
    assert torch.allclose(found, original / scale / scale[:, None], atol=1e-9)
    assert torch.allclose(found, hessian(curvature.at(emitted, loss), curvature.trainable(emitted)), atol=1e-9)


def test_a_linear_loss_is_flat() -> None:
    model = nn.Linear(3, 1, bias=False).double()
    value, _ = curvature.top_eigenvalue(
        curvature.at(model, lambda net: net(X[:, :3]).sum()), curvature.trainable(model)
    )
    assert value == 0


def test_the_top_eigenvalue_of_one_weight() -> None:
    value, vector = curvature.top_eigenvalue(lambda w: 3 * w["a"].square().sum(), {"a": torch.ones(1).double()})
    assert value == pytest.approx(6) and abs(float(vector["a"])) == 1


def test_the_top_eigenvalue_may_be_negative() -> None:
    diagonal = torch.tensor([1.0, -5, 4.9, 0, 2]).double()
    value, vector = curvature.top_eigenvalue(
        lambda w: (diagonal * w["a"].square()).sum() / 2, {"a": torch.ones(5).double()}
    )
    assert value == pytest.approx(-5) and abs(float(vector["a"][1])) == pytest.approx(1)


def test_an_eigenvalue_that_is_not_found_is_an_error() -> None:
    diagonal = torch.linspace(1, 1.001, 200).double()
    with pytest.raises(ft.InputError, match="within 1 iterations"):
        curvature.top_eigenvalue(
            lambda w: (diagonal * w["a"].square()).sum() / 2, {"a": torch.ones(200).double()}, iterations=1
        )


def test_filter_normalised_directions() -> None:
    weights = curvature.trainable(ft.randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))))
    found = landscapes.random_direction(weights, seed=1)
    assert torch.allclose(found["0.weight"].flatten(1).norm(dim=1), weights["0.weight"].flatten(1).norm(dim=1))
    assert not found["0.bias"].any() and not found["1.weight"].any()


def test_line_and_surface_go_through_the_weights() -> None:
    model = network()
    of, weights = curvature.at(model, loss), curvature.trainable(model)
    here = float(loss(model))
    other = landscapes.moved(weights, (1.0, landscapes.random_direction(weights, 1)))
    found = landscapes.line(of, weights, other, [0.0, 0.5, 1.0])
    assert float(found[0]) == pytest.approx(here) and float(found[2]) == pytest.approx(float(of(other)))
    first, second = (landscapes.random_direction(weights, s) for s in (1, 2))
    grid = landscapes.surface(of, weights, first, second, [-1.0, 0.0, 1.0], [-0.5, 0.0])
    assert grid.shape == (2, 3) and float(grid[1, 1]) == pytest.approx(here)
    assert float(grid[1, 2]) == pytest.approx(float(of(other)))


def test_the_plane_of_a_flat_trajectory_holds_all_of_it() -> None:
    weights = curvature.trainable(network())
    first, second = (landscapes.random_direction(weights, s, normalize=False) for s in (1, 2))
    steps = [(3.0, 1.0), (2.0, -1.0), (0.5, 0.7), (0.0, 0.0)]
    plane = landscapes.pca_plane([landscapes.moved(weights, (a, first), (b, second)) for a, b in steps])
    assert float(plane.explained.sum()) == pytest.approx(1)
    a, b = plane.directions
    assert curvature.dot(a, a) == pytest.approx(1) and abs(float(curvature.dot(a, b))) < 1e-9
    for (x, y), (s, t) in zip(plane.coordinates.tolist(), steps, strict=True):
        here, there = landscapes.moved(plane.center, (x, a), (y, b)), landscapes.moved(weights, (s, first), (t, second))
        assert all(torch.allclose(here[n], w, atol=1e-9) for n, w in there.items())
