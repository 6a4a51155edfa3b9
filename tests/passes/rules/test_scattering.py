"""Scattering: one CoB along the axis of the index, for the values and for what they go to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

AT = torch.tensor([2, 5])


CHANNELS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "index_add": (lambda x, y: x.index_add(1, AT, y[:, :2]), 7),  # one of x and y's two, six others of y
    "index_add with a factor": (lambda x, y: x.index_add(1, AT, y[:, :2], alpha=3), 7),
    "index_add of positions": (lambda x, y: x.index_add(3, torch.tensor([1]), y[..., :1]), 8),
    "index_add, from the end": (lambda x, y: x.index_add(-1, torch.tensor([1]), y[..., :1]), 8),
    "index_add to a vector": (
        lambda x, y: x.flatten().index_add(-1, torch.tensor([0]), y[0].flatten()[:1]).reshape_as(x) + 0 * x,
        8,
    ),
    "scatter_add to a number": (lambda x, y: x * x.sum().scatter_add(0, torch.tensor(0), y.sum()), 1),
    "scatter_add of positions": (lambda x, y: x.scatter_add(3, torch.zeros_like(y, dtype=torch.long), y), 8),
    "scatter_add of channels": (lambda x, y: x.scatter_add(1, torch.zeros_like(y, dtype=torch.long), y), 1),
    "sum": (lambda x, y: x.scatter_reduce(3, torch.zeros_like(y, dtype=torch.long), y, "sum"), 8),
    "mean": (lambda x, y: x.scatter_reduce(3, torch.zeros_like(y, dtype=torch.long), y, "mean", include_self=False), 8),
    "amax": (lambda x, y: x.index_reduce(3, torch.tensor([1]), y[..., :1], "amax"), 8),
    "scatter": (lambda x, y: x.scatter(1, torch.zeros_like(y, dtype=torch.long), y), 1),
    # of a larger batch, the third row keeps x: there the two share a CoB
    "scatter by a known index": (lambda x, y: x.scatter(1, torch.full((2, 1, 1, 1), 3), y[:, :1]), 15),
    "scatter and add": (lambda x, y: x.scatter(3, torch.zeros_like(y, dtype=torch.long), y, reduce="add"), 8),
    "scatter of zeros": (lambda x, y: x.scatter(1, torch.zeros_like(y, dtype=torch.long), 0.0) + y, 8),
    "index_fill with zeros": (lambda x, y: x.index_fill(1, AT, 0.0) + y, 8),
    "index_copy": (lambda x, y: x.index_copy(1, AT, y[:, :2]), 16),
    "index_copy into positions of one CoB": (
        lambda x, y: x.mean(1, keepdim=True).repeat(1, 8, 1, 1).index_copy_(1, AT, y[:, :2]),
        1 + 8,
    ),
    "index_copy, where the run decides": (lambda x, y: x.index_copy(3, y[0, 0, 0].argmax()[None], y[..., :1]), 8),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_one_cob_along_the_axis(name: str, check_operation: Callable[..., None]) -> None:
    operation, free = CHANNELS[name]
    check_operation(operation, full=free, streams=2)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, y: x.scatter(1, torch.zeros_like(y, dtype=torch.long), 2.0) * y,
        lambda x, y: x.index_fill(1, AT, 1.5) * y,
    ],
)
def test_a_constant_pins(operation: Callable[[Tensor, Tensor], Tensor], check_operation: Callable[..., None]) -> None:
    check_operation(operation, full=8, weights=8, streams=2)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, y: x.scatter_reduce(3, torch.zeros_like(y, dtype=torch.long), y, "prod"),
        lambda x, y: x.scatter(3, torch.zeros_like(y, dtype=torch.long), 2.0, reduce="multiply") + 0 * y,
        lambda x, y: x.scatter(3, torch.zeros_like(y, dtype=torch.long), y, reduce="multiply"),
        lambda x, y: x.scatter_add(3, torch.zeros_like(y[:, :2], dtype=torch.long), y[:, :2]),
    ],
)
def test_what_it_does_not_know_pins(
    operation: Callable[[Tensor, Tensor], Tensor], check_operation: Callable[..., None]
) -> None:
    check_operation(operation, full=None, streams=2, known=False)


def test_values_of_another_size_are_refused() -> None:
    class Fewer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 2), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            sent = self.b(x)
            return self.c(self.a(x).scatter_add(0, torch.zeros_like(sent, dtype=torch.long), sent))

    plan = ft.plan(Fewer(), torch.randn(3, 4))
    assert "of another size than the positions" in plan.opaque[0].why


def test_the_smallest_needs_a_positive_cob() -> None:
    class Least(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x).index_reduce(0, torch.tensor([0, 0, 1]), self.b(x), "amin"))

    plan = ft.plan(Least(), torch.randn(3, 4))
    assert {g.allows for g in plan.groups if g.kind == "free"} == {"positive"}


class Messages(nn.Module):
    """A graph network: sums, means and maxima of messages along edges."""

    def __init__(self, reduce: str) -> None:
        super().__init__()
        self.reduce = reduce
        self.message, self.update, self.own = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(5, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        sent = torch.relu(self.message(x))[source]
        received = torch.zeros(x.shape[0], 7, dtype=x.dtype)
        if self.reduce == "sum":
            received = received.index_add_(0, target, sent)
        else:
            received = received.scatter_reduce_(0, target[:, None].expand_as(sent), sent, self.reduce)
        return self.head(self.norm(torch.relu(self.update(received)) + self.own(x)))


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax"])
def test_graph_networks(reduce: str) -> None:
    model, x = ft.randomize(Messages(reduce).eval()), torch.randn(5, 5)
    edges = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 3]])
    plan = ft.plan(model, x, edges)
    assert plan.num_free == 7 + 6 + 6  # messages, the hidden values, and what the norm gives
    assert not plan.opaque
    network = plan.rewrite(plan.sample(0.9, exact=True, seed=0))
    for _ in range(2):
        assert ft.verify(model, network, x, edges).bitwise_equal
        assert torch.equal(network(x, edges), model(x, edges))
        x, edges = torch.randn(8, 5), torch.randint(8, (2, 20))


def test_a_sparse_tensor_from_values(check_operation: Callable[..., None]) -> None:
    """Where its values go is in an index: rows, then channels, of one CoB."""

    def rows(x: Tensor) -> Tensor:
        return torch.sparse_coo_tensor(torch.arange(len(x)).flip(0)[None], x, x.shape).to_dense()

    check_operation(rows, full=8, weights=8)
    check_operation(lambda x: rows(x.transpose(0, 1)).transpose(0, 1), full=1, weights=1)


@pytest.mark.parametrize("name", ["index_copy", "scatter"])
def test_other_inputs_have_more_than_what_is_put(name: str, assert_exact: Callable[..., ft.Plan]) -> None:
    """In the example, all of x is covered by y; longer inputs show it again."""

    class Puts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.a(x), self.b(x[:, :1])
            if name == "index_copy":
                return self.c(a.index_copy(1, torch.tensor([0]), b).tanh())
            return self.c(a.scatter(1, torch.zeros(1, 1, 6, dtype=torch.long), b).tanh())

    model = Puts()
    plan = assert_exact(model, torch.randn(1, 1, 4))
    assert plan.num_free == 6
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    for shape in ((1, 3, 4), (2, 1, 4), (2, 3, 4)):
        other = torch.randn(shape)
        assert torch.equal(network(other), model(other))
