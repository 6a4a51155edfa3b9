"""Objects around tensors: made anew by each run where they are returned, refused everywhere else."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.verify.outputs import outputs


class Layer:
    def __init__(self, keys: Any, config: object) -> None:
        self.keys, self.config, self.seen = keys, config, 0


class Cache:
    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.by_name: dict[str, Any] = {}


CONFIG = object()


class Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values, self.out = nn.Linear(6, 5), nn.Linear(6, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        cache, keys = Cache(), self.keys(x)
        cache.layers.append(Layer(keys, CONFIG))
        cache.by_name["again"] = keys
        return {"logits": self.out(torch.relu(self.values(x))), "cache": cache}


def test_a_returned_object_is_made_anew_by_each_run(assert_exact: Callable[..., ft.Plan]) -> None:
    model, x = Caching(), torch.randn(2, 6)
    plan = assert_exact(model, x)
    assert plan.num_free == 7  # what is put into the cache is an output
    assert not plan.opaque
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for gm in (network, copy.deepcopy(network)):
        first, second = gm(x)["cache"], gm(x)["cache"]
        assert type(first) is Cache
        assert first is not second
        assert first.layers[0] is not second.layers[0]
        assert torch.equal(first.layers[0].keys, model(x)["cache"].layers[0].keys)
        assert torch.equal(first.by_name["again"], first.layers[0].keys)
        assert first.layers[0].config is CONFIG


class Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        cache.by_name["mean"] = 2.0 if x.mean() > 0 else 3.0  # cannot be traced
        return self.linear(x)


class Handing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.part, self.out = nn.Linear(6, 5), Opaque(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        cache = Cache()
        x = self.part(self.stem(x), cache)
        return self.out(x) * cache.by_name["mean"]


def test_an_object_that_a_part_may_write_to_keeps_the_model_whole(assert_exact: Callable[..., ft.Plan]) -> None:
    with pytest.warns(ft.OpaqueModuleWarning, match="a Cache reaches it"):
        plan = assert_exact(Handing(), torch.randn(2, 6), at_least=0)
    assert plan.num_free == 0


class Numbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * np.sqrt(5.0))[:, : np.int64(2)]


def test_numbers_of_numpy(assert_exact: Callable[..., ft.Plan]) -> None:
    assert assert_exact(Numbers(), torch.randn(2, 6)).num_free == 5 + 1  # one output is cut off


class Checked(nn.Module):
    """A base class that is told of every subclass."""

    known: list[str] = []

    def __init_subclass__(cls) -> None:
        if cls.__name__ in Checked.known:
            raise TypeError(f"{cls.__name__} is registered twice")
        Checked.known.append(cls.__name__)


class Registered(Checked):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_a_base_class_is_not_told_of_what_capture_makes(assert_exact: Callable[..., ft.Plan]) -> None:
    assert assert_exact(Registered(), torch.randn(2, 6)).num_free == 5
    assert Checked.known == ["Registered"]


class Settings:
    scale = 2.0

    def __init__(self, steps: Any = ()) -> None:
        self.steps = steps


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor, settings: Settings) -> Tensor:
        return self.b(torch.relu(self.a(x)) * settings.scale)


def test_an_input_that_a_graph_cannot_spell() -> None:
    with pytest.raises(ft.CaptureError, match=r"'settings' is a Settings"):
        ft.plan(Configured(), torch.randn(2, 6), Settings(iter("ab")))


def test_an_object_of_plain_values(assert_exact: Callable[..., ft.Plan]) -> None:
    assert assert_exact(Configured(), torch.randn(2, 6), Settings([2])).num_free == 5


class Chosen(nn.Module):
    """Positions picked by other data: one CoB for all that may be picked, along that axis only."""

    def __init__(self, pick: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.pick, self.b = nn.Linear(6, 5), pick, nn.Linear(5, 3)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.b(self.pick(self.a(x), index))


PICKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pairs": lambda x, i: x[torch.arange(2), i],
    "first axis": lambda x, i: x[i, 0],
    "behind dots": lambda x, i: x.transpose(1, 2)[..., i].transpose(1, 2),
    "index_select": lambda x, i: x.index_select(1, i),
    "gather": lambda x, i: x.gather(1, i[:, None, None].expand(-1, -1, 5)),
    "take_along_dim": lambda x, i: torch.take_along_dim(x, i[:, None, None], dim=1),
}


@pytest.mark.parametrize("name", PICKS)
def test_positions_that_the_data_picks(name: str, assert_exact: Callable[..., ft.Plan]) -> None:
    model, index = Chosen(PICKS[name]), torch.tensor([1, 0])
    plan = assert_exact(model, torch.randn(2, 4, 6), index)
    assert plan.num_free == 5
    assert not plan.opaque


def test_channels_that_the_data_picks_share_their_value(assert_exact: Callable[..., ft.Plan]) -> None:
    class Channels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 5), nn.Linear(2, 3)

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return self.b(self.a(x)[:, index])

    plan = assert_exact(Channels(), torch.randn(2, 6), torch.tensor([1, 4]))
    assert plan.num_free == 1


def test_a_mask_of_unknown_shape_says_nothing_about_attentions_shape(assert_exact: Callable[..., ft.Plan]) -> None:
    """The mask is made by a part kept whole; attention's shape is known all the same, and so is what follows."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

        def mask(self, keep: Tensor) -> Tensor | None:
            return None if bool(keep.all()) else keep[:, None, None, :]

        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            q, k, v = (f(x).view(2, 5, 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            x = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(keep)).transpose(1, 2)
            if x.shape[1] > 1:
                x = x.reshape(2, 5, 8)
            return self.out(x)

    keep = torch.ones(2, 5, dtype=torch.bool)
    keep[1, 3:] = False
    plan = assert_exact(Masked(), torch.randn(2, 5, 8), keep)
    assert plan.num_free == 8 + 8
    plan = ft.plan(Masked().eval(), torch.randn(2, 5, 8), keep, data_guards=False)
    assert plan.num_free == 8 + 8
    assert [o.node for o in plan.opaque] == ["mask"]


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: collections.deque([a, b]),
        lambda a, b: {"a": collections.deque([a], maxlen=3), "b": (b,)},
        Slotted,
        lambda a, b: [Slotted(collections.deque([a]), {"b": b})],
    ],
)
def test_containers_of_any_kind_are_made_anew(make: Callable[..., Any], assert_exact: Callable[..., ft.Plan]) -> None:
    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.hidden = nn.Linear(4, 4), nn.Linear(5, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Any:
            return make(self.a(x), self.b(self.hidden(x).relu()))

    model, x = Gives(), torch.randn(2, 4)
    plan = assert_exact(model, x)
    network, other = plan.rewrite(plan.sample(exact=True, seed=1)), torch.randn(3, 4)
    found, expected = outputs(network(other)), outputs(model(other))
    assert list(found) == list(expected)
    assert all(torch.equal(v, expected[path]) for path, v in found.items() if isinstance(v, Tensor))
