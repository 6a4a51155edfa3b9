"""Uses: a group's values multiply exactly the channels that its uses name, to the power that they name."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxteleport as ft
from fxteleport.explain.groups import Group
from fxteleport.explain.scalings import Use
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.graph.node_info import info
from fxteleport.plan.plan import Plan


class Attention(nn.Module):
    """Queries, keys and values of one layer, a reused layer, a gate and a square: inverses, powers and runs."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj, self.gate, self.head = (nn.Linear(8, n) for n in (24, 8, 8, 2))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v))
        gate = self.gate(x)
        return self.head(gate * gate)


MODELS = {
    "attention": (Attention, (2, 5, 8)),
    "resnet": (lambda: timm.create_model("test_resnet"), (2, 3, 32, 32)),
    "vit": (lambda: timm.create_model("test_vit"), (2, 3, 160, 160)),
}


@pytest.fixture(scope="module", params=MODELS)
def plan(request: pytest.FixtureRequest) -> Plan:
    make, shape = MODELS[request.param]
    return ft.plan(make().eval(), torch.zeros(shape), norm_stats="wrapped")


def with_twos(plan: Plan, group: Group) -> Tensor:
    """tau where the values of one group are 2, and all others 1."""
    own = torch.from_numpy(plan.grouping.of == group.id)
    values = torch.ones(plan.num_free, dtype=torch.float64)
    values[torch.from_numpy(plan.solution.index)[own]] = 2
    return plan.tau(plan.cob(values))


def told(uses: list[Use], shape: torch.Size) -> Tensor:
    """The factor of every element, as uses tell it."""
    factor = torch.ones(shape, dtype=torch.float64)
    for use in uses:
        if not use.axes:
            factor *= 2.0**use.exponent
            continue
        wide = torch.ones([shape[a] for a in use.axes], dtype=torch.float64).view(-1)
        wide[use.start : use.stop] = 2.0**use.exponent
        factor *= wide.view([n if a in use.axes else 1 for a, n in enumerate(shape)])
    return factor


def test_uses_tell_what_a_group_scales(plan: Plan) -> None:
    assert not any(g.kind == "dependent" for g in plan.groups)
    maps = [(plan.constrained.tensors.get(n), m.shape) for n, m in plan.captured.metas.items()]
    for node, cob in plan.constrained.maps.items():
        values = [x for x in pytree.tree_leaves(info(node).value) if isinstance(x, Tensor)]
        if isinstance(cob, CobMap) and len(values) == 1:
            maps.append((cob, values[0].shape))
    for group in [g for g in plan.groups if g.kind == "free"][::3]:
        tau = with_twos(plan, group)
        for cob, shape in maps:
            scale = cob.scale(tau) if cob is not None else None
            expected = torch.ones(shape, dtype=torch.float64) if scale is None else scale.expand(shape)
            assert torch.equal(told([u for u in plan.uses(cob) if u.group == group.id], shape), expected)


def test_a_tensor_moves_where_a_group_uses_it(plan: Plan) -> None:
    for name, _ in plan.captured.model.named_parameters():
        uses = plan.uses(plan.constrained.tensors.get(plan.captured.canonical[name]))
        assert bool(plan.moved_elements(name)) == any(plan.groups[u.group].kind != "pinned" for u in uses)


def test_uses_stay_within_the_tensor(plan: Plan) -> None:
    for name, meta in plan.captured.metas.items():
        for use in plan.uses(plan.constrained.tensors.get(plan.captured.canonical[name])):
            size = torch.Size([meta.shape[a] for a in use.axes]).numel()
            assert 0 <= use.start < use.stop <= size and use.exponent


def test_many_alternating_runs_are_told_once() -> None:
    class Interleaved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 64), nn.Linear(3, 64), nn.Linear(128, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.stack([self.a(x), self.b(x)], -1).flatten(1))

    plan = ft.plan(Interleaved(), torch.zeros(2, 3))
    uses = [u for u in plan.uses(plan.constrained.tensors["head.weight"]) if plan.groups[u.group].kind == "free"]
    assert [(u.start, u.stop, u.exponent) for u in uses] == [(0, 127, -1), (1, 128, -1)]
