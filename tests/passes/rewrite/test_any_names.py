"""A model's parts may have the names that emitted networks have for themselves."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.rewrite.teleported_network import own_names

NAMES = sorted(name for name in own_names() if not name.startswith("__"))


class Named(nn.Module):
    """Two layers, and beside them a part under a name of one's choice."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__()
        self.name, self.kind = name, kind
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)
        if kind == "module":
            self.add_module(name, nn.Linear(5, 5))
        elif kind == "parameter":
            self.register_parameter(name, nn.Parameter(torch.randn(5)))
        else:
            self.register_buffer(name, torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        h, part = self.first(x).relu(), getattr(self, self.name)
        return self.last((part(h) if self.kind == "module" else h * part).relu())


@pytest.mark.parametrize("name", NAMES)
def test_every_own_name(name: str) -> None:
    for kind in ("module", "parameter", "buffer"):
        model, x = Named(name, kind).eval(), torch.randn(2, 4)
        plan = ft.plan(model, x)
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        assert torch.equal(network(x), model(x)), kind
        assert network.state_dict().keys() >= model.state_dict().keys()


@pytest.mark.parametrize("name", ["graph", "code", "meta", "variants", "_graph"])
@pytest.mark.parametrize("kind", ["module", "parameter", "buffer"])
def test_a_network_with_such_a_part(name: str, kind: str, assert_exact: Callable[..., ft.Plan], tmp_path: Path) -> None:
    model, x = Named(name, kind), torch.randn(2, 4)
    plan = assert_exact(model, x)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    expected = model(x)
    copied, file = copy.deepcopy(network), io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    for other in (copied, copy.deepcopy(copied), torch.load(file, weights_only=False)):
        assert torch.equal(other(x), expected)
        other.load_state_dict(network.state_dict())
        assert torch.equal(other.train().eval()(x), expected)
    ft.save(tmp_path / "network", network, "")
    assert torch.equal(ft.load(tmp_path / "network", Named(name, kind).eval())(x), expected)
    part = network.get_submodule(name) if kind == "module" else dict(network.state_dict())[name]
    assert part is not None


def test_a_model_that_is_kept_whole(assert_exact: Callable[..., ft.Plan]) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph, self.code = nn.Linear(4, 4), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.graph(x) * self.code
            return h if h.sum() > 0 else -h

    plan = assert_exact(Whole(), torch.randn(2, 4), at_least=0)
    assert plan.opaque
