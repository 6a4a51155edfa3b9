"""An emitted network goes on through torch's own tracers, with other sizes too, and still refuses what it must."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import fxteleport as ft


class Patches(nn.Module):
    """It asks for sizes, and refuses some; its operations need another form in `full` mode."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.gate, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        assert height % 4 == 0, "whole patches"
        if width % 4 != 0:
            x = F.pad(x, (0, 4 - width % 4))
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = tokens + self.down(F.gelu(self.up(self.norm(tokens))))
        tokens = tokens * torch.sigmoid(self.gate(tokens))
        return self.head(tokens.mean(1)).reshape(batch, 5)  # type: ignore[no-any-return]


def exported(network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    auto = torch.export.Dim.AUTO
    return torch.export.export(network, (x,), dynamic_shapes=({0: auto, 2: auto},)).module()


def compiled(network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    torch.compiler.reset()
    return torch.compile(network, backend="eager", dynamic=True, fullgraph=True)


def jit_traced(network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    return torch.jit.trace(network, x)  # type: ignore[no-any-return]


def made_fx(network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    return make_fx(network, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x)


def retraced(network: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    return torch.fx.symbolic_trace(network)


TRACERS = {f.__name__: f for f in (exported, compiled, jit_traced, made_fx, retraced)}


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", TRACERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_torchs_own_tracers(name: str, mode: str) -> None:
    model = ft.randomize(Patches()).eval()
    x, other = torch.randn(2, 3, 8, 8), torch.randn(3, 3, 12 if name != "jit_traced" else 8, 8)
    network = ft.teleport(model, x, exact=True, mode=mode, seed=0)
    if mode == "full":
        kinds = {type(m).__name__ for m in network.modules()}
        assert {"TeleportedActivation", "Rescale"} & kinds
    made = TRACERS[name](network, x)
    with torch.no_grad():
        for given in (x, other):
            assert torch.equal(made(given), model(given))


@pytest.mark.parametrize("name", ["retraced", "compiled"])
def test_a_network_that_was_traced_again_still_refuses(name: str) -> None:
    model = ft.randomize(Patches()).eval()
    network = ft.teleport(model, torch.randn(2, 3, 8, 8), exact=True, seed=0)
    made = TRACERS[name](network, torch.randn(2, 3, 8, 8))
    for odd in (torch.randn(2, 3, 9, 8), torch.randn(2, 3, 8, 9)):  # the model's check; the branch that was not taken
        with pytest.raises(Exception, match=r"check fails|captured with"):
            network(odd)
        with pytest.raises(Exception, match=r"check fails|captured with"):
            made(odd)


def test_a_traced_network_can_be_teleported_again() -> None:
    model = ft.randomize(Patches()).eval()
    x = torch.randn(2, 3, 8, 8)
    once = ft.teleport(model, x, exact=True, seed=0)
    again = ft.teleport(torch.fx.symbolic_trace(once), x, exact=True, seed=1)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_flags_are_compared_as_before() -> None:
    """An argument that is equal to a flag, as Python sees it, is accepted, and one that is only true is not."""

    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor, twice: bool = True) -> Tensor:
            return self.layer(x) * 2 if twice else self.layer(x)  # type: ignore[no-any-return]

    x = torch.randn(2, 3)
    network = ft.teleport(Flagged(), x, True)
    assert torch.equal(network(x, 1), network(x, True))
    for other in (False, 2, None):
        with pytest.raises(ValueError, match="captured with"):
            network(x, other)
