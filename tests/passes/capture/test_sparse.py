"""Sparse tensors: adjacencies as buffers, constants and inputs, and activations that are made sparse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.io.checkpoint import save
from fxteleport.passes.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")  # torch warns that it does not check them, and of CSR
EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 0, 3]])
RING = torch.sparse_coo_tensor(EDGES, torch.arange(1.0, 8), (6, 6)).coalesce()
X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
LAYOUTS = {"coo": RING, "csr": RING.to_sparse_csr(), "csc": RING.to_sparse_csc()}
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sparse.mm": torch.sparse.mm,
    "@": lambda a, x: a @ x,
    "spmm": torch.spmm,
    "method": lambda a, x: a.mm(x),
    "dense": lambda a, x: a.to_dense() @ x,
    "transposed": lambda a, x: a.t() @ x,
    "scaled": lambda a, x: (a * 2) @ x,
}


class Graph(nn.Module):
    """Two graph convolutions; the adjacency is a buffer, a constant, or an input."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor], adjacency: Tensor | None, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.product = nn.Linear(5, 8), nn.Linear(8, 3), product
        if kind == "buffer":
            self.register_buffer("adjacency", adjacency)
        elif kind == "constant":
            self.adjacency = adjacency

    def forward(self, x: Tensor, adjacency: Tensor | None = None) -> Tensor:
        a = self.adjacency if adjacency is None else adjacency
        return self.product(a, self.second(torch.relu(self.product(a, self.first(x)))))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["buffer", "constant", "input"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_graph_convolutions(product: str, kind: str, layout: str, assert_exact: Callable[..., ft.Plan]) -> None:
    adjacency = LAYOUTS[layout]
    model = Graph(PRODUCTS[product], adjacency, kind).eval()
    inputs = (X, adjacency) if kind == "input" else (X,)
    plan = assert_exact(model, *inputs)
    assert plan.num_free == 8 and not plan.opaque
    if kind == "input":  # any graph will do
        nodes, edges = torch.randn(9, 5), torch.randint(9, (2, 20))
        other = torch.sparse_coo_tensor(edges, torch.rand(20), (9, 9)).coalesce().to_sparse(layout=adjacency.layout)
        network = plan.rewrite(plan.sample(0.9, exact=True, seed=1))
        assert torch.equal(network(nodes, other), model(nodes, other))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_scaled_beside_a_sparse_buffer(layout: str) -> None:
    model = ft.randomize(Graph(torch.sparse.mm, LAYOUTS[layout], "buffer").eval())
    plan = ft.plan(model, X, mode="weights")
    expected, before = model(X), model.first.weight.clone()
    plan.apply_(plan.sample(0.9, exact=True, seed=0))
    assert torch.equal(model(X), expected) and not torch.equal(model.first.weight, before)


class Made(nn.Module):
    """An adjacency that the forward makes of parameters, or an activation that it makes sparse."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second, self.how = nn.Linear(5, 8), nn.Linear(8, 3), how
        self.rows, self.columns = nn.Parameter(torch.ones(6, 1)), nn.Parameter(torch.ones(1, 6))
        self.edges, self.attention = nn.Parameter(torch.ones(7)), nn.Linear(16, 1)
        self.register_buffer("ring", RING)

    def adjacency(self, h: Tensor) -> Tensor:
        if self.how == "scaled rows":
            return self.ring * self.rows
        if self.how == "rectified":
            return torch.relu(self.ring * self.rows)
        if self.how == "saturated":
            return torch.expm1(self.ring * self.rows)
        if self.how == "to_sparse":
            return (self.rows * self.columns).to_sparse()
        if self.how == "edges":
            return torch.sparse_coo_tensor(EDGES, self.edges, (6, 6))
        if self.how == "coalesced":
            made = (self.ring * self.rows).coalesce()
            return torch.sparse_coo_tensor(made.indices(), made.values().relu(), made.shape)
        if self.how == "softmax":
            return torch.sparse.softmax(self.ring * self.rows, 1)
        ends = torch.cat([h[EDGES[0]], h[EDGES[1]]], 1)
        return torch.sparse_coo_tensor(EDGES, self.attention(ends).squeeze(1).exp(), (6, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.how == "sparse activation":
            return self.second(torch.relu(h.to_sparse()).to_dense())
        if self.how == "sparse weight":
            return torch.sparse.mm(h.relu().to_sparse(), self.second.weight.t())
        a = self.adjacency(h)
        if self.how == "degrees":
            h = h / torch.sparse.sum(a, 1).to_dense()[:, None]
        return self.second(torch.relu(a @ h))


FREE = {  # in full mode
    "scaled rows": 9, "rectified": 9, "saturated": 8, "to_sparse": 10, "edges": 9, "coalesced": 8, "softmax": 8,
    "attention": 9, "degrees": 9, "sparse activation": 8, "sparse weight": 8,
}  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("how", FREE)
def test_made_in_the_forward(how: str, mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    """A sparse tensor is not rescaled, since it cannot be by every factor: what would have to be is pinned."""
    plan = assert_exact(Made(how).eval(), X, mode=mode)
    assert plan.num_free == FREE[how] if mode == "full" else 8 <= plan.num_free <= FREE[how]


def test_a_constant_that_is_written_to(assert_exact: Callable[..., ft.Plan]) -> None:
    class Writes(Graph):
        def forward(self, x: Tensor, adjacency: Any = None) -> Tensor:
            a = RING.clone()
            h = a @ self.first(x)
            a.mul_(2)
            return self.second(torch.relu(a @ h))

    assert_exact(Writes(torch.mm, None, "input").eval(), X)


def test_a_checkpoint_of_dense_tensors_only(tmp_path: Path) -> None:
    network = ft.teleport(ft.randomize(Graph(torch.mm, RING, "buffer").eval()), X, seed=0)
    with pytest.raises(CheckpointError, match="'adjacency' of the state dict is sparse"):
        save(tmp_path / "x.safetensors", network, "graph")
    assert not list(tmp_path.iterdir())
