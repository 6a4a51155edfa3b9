"""A state dict tells the truth: loaded wherever it loads, it brings its function along."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.rewrite.teleported_network import TeleportedModule

X = torch.randn(7, 5, generator=torch.Generator().manual_seed(1)).double()


class Net(nn.Module):
    """A wrapped module (by its sign), a function, a norm, and an activation that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU()
        self.body, self.inner, self.tanh = nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh()
        self.wide, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tanh(self.inner(self.body(self.act(self.norm(self.stem(x))))))
        return self.head(self.tanh(F.gelu(self.wide(x))))


def made(seed: int) -> nn.Module:
    return ft.randomize(Net().double(), seed).eval()


def rewritten(model: nn.Module, landscape: str, seed: int = 0, mode: str = "full") -> TeleportedModule:
    plan = ft.plan(model, X, mode=mode)
    if landscape == "identity":
        return plan.rewrite(plan.identity())
    return plan.rewrite(plan.sample(0.9, landscape, exact=True, seed=seed))


def in_memory(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    return state


def through_torch(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


def through_safetensors(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    safetensors.torch.save_file(state, folder / "state.safetensors")
    return safetensors.torch.load_file(folder / "state.safetensors")


WAYS = pytest.mark.parametrize("way", [in_memory, through_torch, through_safetensors])
LANDSCAPES = ["identity", "intra", "inter", "negative"]  # "intra" is positive: relu's sign has no wrap


@WAYS
@pytest.mark.parametrize("receiver", LANDSCAPES)
@pytest.mark.parametrize("sender", LANDSCAPES)
def test_between_networks_of_one_plan(sender: str, receiver: str, way: Callable[..., Any], tmp_path: Path) -> None:
    """Another process, other weights, another CoB: all of the function comes with the state dict."""
    model = made(0)
    network = rewritten(model, sender, seed=1)
    state = way(network.state_dict(), tmp_path)
    other = rewritten(made(5), receiver, seed=2)
    before = copy.deepcopy(other.state_dict())
    if way is through_safetensors and sender == "identity" and receiver != "identity":
        with pytest.raises(RuntimeError, match=r'Missing key.*"act.tau"|Missing key.*"gelu.tau"'):
            other.load_state_dict(state)  # whose it is, those keys alone do not say
        return
    other.load_state_dict(state)
    assert torch.equal(other(X), model(X))
    assert other.state_dict().keys() == network.state_dict().keys()
    other.load_state_dict(before)  # and back
    assert torch.equal(other(X), made(5)(X))


@pytest.mark.parametrize("landscape", ["inter", "negative"])
def test_the_original_class_refuses_it(landscape: str) -> None:
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\).*\"act.tau\""):
        made(1).load_state_dict(rewritten(made(0), landscape).state_dict())


def test_it_refuses_what_says_nothing_of_wraps() -> None:
    """The original's state dict, and those that were written before wraps had keys, are not told apart."""
    network = rewritten(made(0), "inter")
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*\"act.tau\""):
        network.load_state_dict(made(1).state_dict())


def test_keys_are_the_originals_where_no_operation_differs() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    plan = ft.plan(model, X)
    network = plan.rewrite(plan.sample(0.9, "intra", exact=True, seed=0))
    assert list(network.state_dict()) == list(model.state_dict())
    fresh = copy.deepcopy(model)
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh(X), model(X))
    for landscape in ("inter", "negative"):
        assert list(rewritten(made(0), landscape, mode="weights").state_dict()) == list(made(0).state_dict())


def test_names_and_shapes_do_not_depend_on_the_cob() -> None:
    """A CoB that happens to be the same for all neurons has the shape of any other."""
    plan = ft.plan(made(0), X)
    drawn = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)).state_dict()
    same = plan.rewrite(plan.cob(torch.full((plan.num_free,), -2.0))).state_dict()
    assert {k: v.shape for k, v in drawn.items()} == {k: v.shape for k, v in same.items()}


@pytest.mark.parametrize("copied", ["deepcopy", "pickle"])
def test_copies_take_it_too(copied: str) -> None:
    other = rewritten(made(5), "identity")
    if copied == "deepcopy":
        other = copy.deepcopy(other)
    else:
        file = io.BytesIO()
        torch.save(other, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    other.load_state_dict(rewritten(made(0), "inter").state_dict())
    assert torch.equal(other(X), made(0)(X))


@pytest.mark.parametrize("assign", [False, True])
def test_in_another_number_format(assign: bool) -> None:
    state = rewritten(made(0), "inter").state_dict()
    other = rewritten(made(5), "identity").float()
    other.load_state_dict(state, assign=assign)
    dtype = torch.float64 if assign else torch.float32
    assert {t.dtype for n, t in other.state_dict().items() if not n.endswith("tracked")} == {dtype}
    assert torch.allclose(other(X.to(dtype)), made(0)(X).to(dtype), rtol=1e-5)


def test_a_compiled_network() -> None:
    torch._dynamo.reset()
    state = torch.compile(rewritten(made(0), "inter"), backend="eager").state_dict()
    assert all(key.startswith("_orig_mod.") for key in state)
    other = torch.compile(rewritten(made(5), "identity"), backend="eager")
    with torch.no_grad():
        other(X)  # its code without wraps is compiled
        other.load_state_dict(state)
        assert torch.equal(other(X), made(0)(X))


def test_functional_calls_and_exported_programs() -> None:
    """Nothing beside a state dict says what a network computes: no inverse, for one."""
    one, two = rewritten(made(0), "inter", 1), rewritten(made(5), "inter", 2)
    assert torch.equal(torch.func.functional_call(two, one.state_dict(), (X,)), made(0)(X))
    program = torch.export.export(one, (X,))
    assert torch.equal(program.module()(X), made(0)(X))
    assert program.state_dict.keys() == one.state_dict().keys()


def test_a_network_forgets_a_cob_that_is_no_longer_its_own(tmp_path: Path) -> None:
    model = made(0)
    network, other = rewritten(model, "inter", 1), rewritten(model, "inter", 2)
    other.load_state_dict(other.state_dict())
    ft.save(tmp_path / "net", other, "net")
    other.load_state_dict(network.state_dict())
    assert ft.verify(model, other, X).bitwise_equal
    with pytest.raises(ft.InputError, match="state dict"):
        ft.save(tmp_path / "net", other, "net")


def test_a_digits_like_cnn() -> None:
    """It used to load into its own class with all keys matched, and lose a fifth of its accuracy."""
    torch.manual_seed(0)

    def cnn() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.GELU(),
            nn.Flatten(), nn.Linear(32, 4),
        )  # fmt: skip

    x, y = torch.randn(200, 1, 8, 8), torch.randint(0, 4, (200,))
    x[torch.arange(200), 0, y, y] += 4.0
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    accuracy = (model(x).argmax(1) == y).float().mean()
    assert accuracy > 0.8
    live = ft.Teleportable(model, x[:2])
    expected = live(x)
    live.teleport_(live.plan.sample(0.9, "inter", exact=True, seed=3))
    for state in (live.network.state_dict(), ft.teleport(model, x[:2], landscape="inter", seed=0).state_dict()):
        with pytest.raises(RuntimeError, match="Unexpected key"):
            cnn().load_state_dict(state)
    fresh = ft.Teleportable(cnn().eval(), x[:2])
    fresh.load_state_dict(live.state_dict())
    assert torch.equal(fresh(x), expected)
    assert (fresh(x).argmax(1) == y).float().mean() == accuracy


def test_a_load_that_fails_says_which_keys() -> None:
    """Of another plan: as many wraps, of other shapes."""
    network = rewritten(made(0), "identity")
    state = rewritten(made(1), "inter").state_dict()
    state["act.tau"] = torch.ones(3)
    state["else.tau"] = torch.ones(3)
    with warnings.catch_warnings(), pytest.raises(RuntimeError, match=r"(?s)else.tau.*size mismatch for act.tau"):
        network.load_state_dict(state)
