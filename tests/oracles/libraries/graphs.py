"""torch_geometric: layers on edges, and whole networks that take Data and Batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from survey import call
from torch import Tensor, nn

from libraries.called import Called, noise, of

EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 4], [1, 2, 3, 4, 5, 0, 3, 5, 1]])
MORE = torch.tensor([[0, 1, 2, 3, 4, 6, 7], [1, 2, 3, 4, 0, 7, 6]])


def basic(name: str, **settings: Any) -> Callable[[], Called]:
    def make() -> Called:
        from torch_geometric.nn import models

        network = getattr(models, name)(in_channels=5, hidden_channels=8, num_layers=3, out_channels=3, **settings)
        return Called(network, call(noise(6, 5), EDGES), (call(noise(8, 5), MORE),))

    return make


for name, settings in (
    ("GCN", {}),
    ("GraphSAGE", {}),
    ("GIN", {}),
    ("GAT", {"heads": 2}),
    ("GAT", {"heads": 2, "v2": True, "norm": "layer"}),
    ("EdgeCNN", {}),
    ("GCN", {"jk": "cat", "norm": "batch"}),
):
    of("torch_geometric", name + "".join(f", {k}={v}" for k, v in settings.items()))(basic(name, **settings))


def batch(sizes: tuple[int, ...]) -> Any:
    from torch_geometric.data import Batch, Data

    def ring(n: int) -> Tensor:
        return torch.stack([torch.arange(n), (torch.arange(n) + 1) % n])

    made = [
        Data(
            x=noise(n, 5, seed=n),
            edge_index=ring(n),
            edge_attr=noise(n, 4, seed=n),
            pos=noise(n, 3, seed=n),
            z=torch.arange(n) % 5 + 1,
        )
        for n in sizes
    ]
    return Batch.from_data_list(made)


class Pooled(nn.Module):
    """Two layers of messages, and one vector a graph."""

    def __init__(self, kind: str, **settings: Any) -> None:
        super().__init__()
        from torch_geometric import nn as layers

        self.first = getattr(layers, kind)(5, 8, **settings)
        self.second = getattr(layers, kind)(8, 8, **settings)
        self.pool, self.head = layers.global_mean_pool, nn.Linear(8, 3)

    def forward(self, data: Any) -> Tensor:
        x = F.relu(self.first(data.x, data.edge_index))
        x = F.relu(self.second(x, data.edge_index))
        return self.head(self.pool(x, data.batch))


for kind in ("GCNConv", "SAGEConv", "TransformerConv", "GraphConv", "TAGConv", "ChebConv"):

    @of("torch_geometric", f"{kind}, called with a Batch")
    def pooled(kind: str = kind) -> Called:
        network = Pooled(kind, **({"K": 2} if kind == "ChebConv" else {}))
        return Called(network, call(batch((4, 5))), (call(batch((3, 6, 4))),))


@of("torch_geometric", "GCNConv, called with a Data")
def on_data() -> Called:
    from torch_geometric.data import Data

    return Called(Pooled("GCNConv"), call(Data(x=noise(6, 5), edge_index=EDGES)))


@of("torch_geometric", "SchNet")
def schnet() -> Called:
    from torch_geometric.nn.models import SchNet

    def near(pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:  # its own graph needs compiled extensions
        apart = (pos[:, None] - pos).norm(dim=-1)
        edges = ((batch[:, None] == batch) & (apart < 10) & (apart > 0)).nonzero().t()
        return edges, apart[edges[0], edges[1]]

    settings = {"hidden_channels": 8, "num_filters": 8, "num_interactions": 2, "num_gaussians": 6}
    network = SchNet(**settings, interaction_graph=near)
    data, other = batch((4, 5)), batch((3, 6, 4))
    return Called(network, call(data.z, data.pos, data.batch), (call(other.z, other.pos, other.batch),))


@of("torch_geometric", "AttentiveFP")
def attentive() -> Called:
    from torch_geometric.nn.models import AttentiveFP

    network = AttentiveFP(in_channels=5, hidden_channels=8, out_channels=3, edge_dim=4, num_layers=2, num_timesteps=2)
    given, other = (call(d.x, d.edge_index, d.edge_attr, d.batch) for d in (batch((4, 5)), batch((3, 6, 4))))
    return Called(network, given, (other,))


@of("torch_geometric", "PNAConv")
def pna() -> Called:
    from torch_geometric.nn import PNAConv

    network = PNAConv(
        5, 8, ["mean", "max", "std"], ["identity", "amplification"], deg=torch.tensor([0, 4, 3]), edge_dim=4
    )
    return Called(network, call(noise(6, 5), EDGES, noise(9, 4)), (call(noise(8, 5), MORE, noise(7, 4)),))


@of("torch_geometric", "GraphUNet")
def graph_unet() -> Called:
    from torch_geometric.nn.models import GraphUNet

    return Called(GraphUNet(5, 8, 3, depth=2), call(noise(6, 5), EDGES))


class Typed(nn.Module):
    """A network on nodes of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GATConv, HeteroConv, SAGEConv

        self.first = HeteroConv(
            {("a", "to", "b"): SAGEConv((5, 6), 8), ("b", "of", "a"): GATConv((6, 5), 8, add_self_loops=False)}
        )
        self.second = HeteroConv({("a", "to", "b"): SAGEConv((8, 8), 4), ("b", "of", "a"): SAGEConv((8, 8), 4)})

    def forward(self, x: dict[str, Tensor], edges: dict[tuple[str, str, str], Tensor]) -> dict[str, Tensor]:
        return self.second({k: F.relu(v) for k, v in self.first(x, edges).items()}, edges)


@of("torch_geometric", "HeteroConv, called with dictionaries")
def typed() -> Called:
    edges = {
        ("a", "to", "b"): torch.tensor([[0, 1, 2], [1, 0, 3]]),
        ("b", "of", "a"): torch.tensor([[0, 3, 2], [1, 0, 2]]),
    }
    return Called(Typed(), call({"a": noise(3, 5), "b": noise(4, 6)}, edges))


@of("torch_geometric", "LightGCN")
def light() -> Called:
    from torch_geometric.nn.models import LightGCN

    return Called(LightGCN(num_nodes=6, embedding_dim=8, num_layers=2), call(EDGES))


@of("torch_geometric", "PointNet++ (PointNetConv, on radius-free edges)")
def points() -> Called:
    from torch_geometric.nn import PointNetConv

    network = PointNetConv(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)), nn.Linear(8, 3))
    return Called(network, call(noise(6, 5), noise(6, 3), EDGES), (call(noise(8, 5), noise(8, 3), MORE),))
