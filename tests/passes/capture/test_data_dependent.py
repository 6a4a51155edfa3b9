"""Decisions that depend on the data: what makes them is kept whole, and the rest of the network is teleported."""

from __future__ import annotations

import contextlib
import operator
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.capture.control_flow import WrittenConstant
from fxteleport.passes.capture.meta_eval import Evaluator
from fxteleport.passes.errors import OpaqueModuleWarning


class Frame(nn.Module):
    """Two layers around something; what is in between takes and gives [batch, 6]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.inner, self.last = nn.Linear(4, 6), nn.Linear(6, 6), inner, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.inner(self.second(torch.relu(self.first(x))))))


class CountPositive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if len(x[x > 0.5]) > x.numel() // 2 else x


class LoopOverSelected(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out = x
        for row in torch.nonzero(x[:, 0] > 0.1):
            out = out + x[row]
        return out


class BranchOnSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 3 else x - 1


class SplitsByCounts(nn.Module):
    """As experts share out tokens: the parts' sizes fit the data, and no other data."""

    def forward(self, x: Tensor) -> Tensor:
        chosen = x.argmax(-1, keepdim=True)
        counts = torch.zeros_like(x).scatter(1, chosen, 1).long().sum(0)
        parts = x[chosen[:, 0].argsort(stable=True)].split(counts.tolist())
        return torch.cat([part * (i + 1) for i, part in enumerate(parts)])


@pytest.mark.parametrize("inner", [CountPositive, LoopOverSelected, BranchOnSum, SplitsByCounts])
@pytest.mark.parametrize("seed", range(3))
def test_the_module_is_kept_whole_and_right_on_other_data(inner: type[nn.Module], seed: int) -> None:
    torch.manual_seed(seed)
    model = Frame(inner()).eval()
    with pytest.warns(OpaqueModuleWarning, match="'inner'"):
        plan = ft.plan(model, torch.randn(5, 4))
    network = plan.rewrite(plan.sample(exact=True, seed=seed))
    assert [o.node for o in plan.opaque] == ["inner"]
    assert plan.num_free == 6  # between the first two layers; the others meet what is kept whole
    for scale in (0.1, 1.0, 10.0):
        for batch in (1, 5, 8):
            x = torch.randn(batch, 4) * scale
            assert torch.equal(network(x), model(x))


@pytest.mark.parametrize("wrap", [lambda a, b: [a, b], lambda a, b: {"a": a, "b": (b,)}, lambda a, b: (a, [b])])
def test_a_whole_model_takes_nested_inputs(wrap: Callable[[Tensor, Tensor], Any]) -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, xs: Any) -> Tensor:
            x, y = torch.utils._pytree.tree_leaves(xs)
            return self.a(x) if y.sum() > 0 else self.a(y)

    model = Chooses().eval()
    with pytest.warns(OpaqueModuleWarning, match="the model is kept whole"):
        plan = ft.plan(model, wrap(torch.randn(2, 4), torch.randn(2, 4)))
    network = plan.rewrite(plan.sample(seed=0))
    for sign in (1, -1):
        x, y = torch.randn(2, 4), torch.ones(2, 4) * sign
        assert torch.equal(network(wrap(x, y)), model(wrap(x, y)))


class WithMethod(nn.Module):
    """The decision is in a method: its module's layers can still be teleported."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def choose(self, x: Tensor, found: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
        found["best"] = [row[row > 0].sum()[None] for row in x]
        return found

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(torch.relu(self.hidden(torch.relu(self.first(x)))))
        found = self.choose(y, {"all": [y]})
        return torch.cat(found["best"] + [found["all"][0].flatten()])


def test_a_method_is_kept_whole() -> None:
    model = WithMethod().eval()
    x = torch.randn(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OpaqueModuleWarning)
        plan = ft.plan(model, x)
    assert plan.num_free == 12
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert ft.verify(model, network, x).passed
    other = torch.randn(3, 4) * 5
    assert torch.equal(network(other), model(other))


class WritesAndForgets(nn.Module):
    """Its method writes into a list that forward goes on to read: no node stands for that list."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def collect(self, x: Tensor, into: list[Tensor]) -> Tensor:
        if x.sum() > 0:
            into.append(x + 1)
        else:
            into.append(x - 1)
        return x

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        y = self.collect(self.first(x), kept)
        return self.last(y + kept[0])


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_what_a_method_writes_into_a_list_is_not_lost(sign: float) -> None:
    model = WritesAndForgets().eval()
    x = torch.randn(3, 4)
    with torch.no_grad():
        model.first.bias.fill_(sign * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OpaqueModuleWarning)
        network = ft.teleport(model, x, exact=True, seed=0)
    assert torch.equal(network(x), model(x))


def test_what_replaces_an_argument_is_no_write_to_it() -> None:
    """Detectors' methods put what they have written in place where something else was."""

    def scale(found: dict[str, Tensor]) -> Tensor:
        found["x"] = found["x"].clone().mul_(2)
        return found["labels"]

    def write(found: dict[str, Tensor]) -> Tensor:
        return found["labels"].add_(1)

    for call, raises in ((scale, False), (write, True)):
        found = {"x": torch.empty(6, device="meta"), "labels": torch.arange(6)}
        with pytest.raises(WrittenConstant) if raises else contextlib.nullcontext():
            Evaluator().run("call_function", call, (found,), {})


class SumOfList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, images: list[Tensor]) -> Tensor:
        return torch.stack([self.layer(x) for x in images]).sum(0)


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_items_is_refused(count: int) -> None:
    plan = ft.plan(SumOfList(), [torch.zeros(4), torch.zeros(4)])
    network = plan.rewrite(plan.identity())
    with pytest.raises(ValueError, match=f"captured with 2 items in images, got {count}"):
        network([torch.zeros(4)] * count)


@pytest.mark.parametrize("read", [len, list, lambda d: d.get("a"), lambda d: d["a"], lambda d: dict(d.items())])
def test_dictionaries_of_opaque_modules_can_be_read(read: Callable[[Any], Any]) -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": x + 1, "b": x * 2} if x.sum() > 0 else {"a": x, "b": x}

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.layer = Opaque(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            found = self.inner(x)
            read(found)
            return sum(self.layer(v) for v in found.values())

    model, x = Reads().eval(), torch.randn(2, 4)
    with pytest.warns(OpaqueModuleWarning, match="inner"):
        plan = ft.plan(model, x)
    assert "inner" in plan.captured.opaque
    assert "_whole" not in plan.captured.opaque
    assert torch.equal(plan.rewrite(plan.identity())(x), model(x))


class TakesASizeOut(nn.Module):
    """`operator.index` must give a number of Python's: the size is a constant of the graph from there on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)) / operator.index(x.shape[-1]))


def test_a_size_that_python_took_out_is_insisted_on() -> None:
    model = TakesASizeOut().eval()
    plan = ft.plan(model, torch.zeros(1, 1, 8, 8))
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for batch, height in ((1, 8), (3, 8), (2, 5)):
        x = torch.randn(batch, 1, height, 8)
        assert torch.equal(network(x), model(x))
    with pytest.raises(ValueError, match="=8, got 9: capture it again"):
        network(torch.zeros(1, 1, 8, 9))


class Weighs(nn.Module):
    """It runs on positive numbers only that are not all zero: on nothing that planning makes up."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("runs", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.b(self.a(x).relu()) if (x > 0).all() else self.positive_numbers_are_needed


def test_a_model_that_runs_on_its_inputs_alone_is_kept_whole() -> None:
    model, x = Weighs().eval(), torch.rand(2, 4) + 1
    drawn = torch.get_rng_state()
    with pytest.warns(ft.OpaqueModuleWarning, match="the model is kept whole"):
        plan = ft.plan(model, x)
    assert torch.equal(drawn, torch.get_rng_state())
    assert model.runs == 0
    assert plan.num_free == 0
    assert len(plan.opaque) == 1
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert torch.equal(network(x), model(x))


def test_a_model_that_does_not_run_on_its_inputs_is_refused() -> None:
    with pytest.raises(ft.CaptureError, match="positive_numbers_are_needed"):
        ft.plan(Weighs().eval(), -torch.ones(2, 4))


class Settles(nn.Module):
    """A method that torch cannot record, and that reads the weights of its module."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.a, self.b, self.reads = nn.Linear(4, 6), nn.Linear(6, 3), reads

    def settled(self, x: Tensor) -> Tensor:
        x = x.to(self.a.weight.dtype)
        return torch.Tensor.abs(self.a(x) if self.reads else x)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.settled(x) if self.reads else self.a(self.settled(x)))


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
@pytest.mark.parametrize("reads", [False, True])
def test_a_method_that_reads_weights_keeps_its_module_whole(reads: bool) -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), Settles(reads)).eval(), torch.randn(2, 4)
    plan = ft.plan(model, x)
    assert [o.node for o in plan.opaque] == (["_3"] if reads else ["_3_settled"])
    assert plan.num_free == (5 if reads else 11)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert torch.equal(network(x), model(x))


def test_an_index_of_numpys(assert_exact: Callable[..., ft.Plan]) -> None:
    class Permuted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)
            self.order, self.kept = np.array([3, 1, 0, 2, 7, 6, 5, 4]), np.arange(8) != 2

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x))
            return self.b(h[:, self.order]) + h[:, self.kept].sum(1, keepdim=True)

    plan = assert_exact(Permuted(), torch.randn(3, 6), at_least=1)
    assert not plan.opaque


class Readout(nn.Module):
    """A graph network's: nodes are added up by the graph that they belong to."""

    def __init__(self, graphs: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.graphs = nn.Linear(6, 8), nn.Linear(8, 4), graphs

    def forward(self, x: Tensor, graph: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.b(h.new_zeros(self.graphs(graph), 8).index_add(0, graph, h))


def test_a_size_that_the_data_give(assert_exact: Callable[..., ft.Plan]) -> None:
    """A graph holds what `.item()` gives; `int()` asks for a number of Python's own: that of the example, with a guard.

    Without data guards, the reason says so.
    """
    inputs, others = (torch.randn(4, 6), torch.tensor([0, 0, 1, 2])), (torch.randn(5, 6), torch.tensor([0, 1, 1, 2, 3]))
    model = Readout(lambda graph: graph.max().item() + 1).eval()
    plan = assert_exact(model, *inputs)
    assert plan.num_free == 8
    assert torch.equal(plan.rewrite(plan.sample(exact=True, seed=0))(*others), model(*others))
    for graphs in (lambda graph: int(graph.max()) + 1, lambda graph: int(graph[-1]) + 1):
        model = Readout(graphs).eval()
        with pytest.warns(
            OpaqueModuleWarning, match=r"int\(\w+\) depends on the data: a graph holds what .item\(\) gives"
        ):
            plan = ft.plan(model, *inputs, data_guards=False)
        assert torch.equal(plan.rewrite(plan.sample(seed=0))(*others), model(*others))
        plan = assert_exact(model, *inputs)
        assert plan.num_free == 8
        assert [c.kind for c in plan.conditions] == ["data"]
        with pytest.raises(ft.GuardError, match="the data decide"):
            plan.rewrite(plan.identity())(*others)


class Experts(nn.Module):
    """Rows go to the experts that the data choose, as many as there are: a list of numbers of the run's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, 6))

    def forward(self, rows: Tensor, counts: list[int]) -> Tensor:
        return torch.cat([part @ w for part, w in zip(rows.split(counts), self.weight, strict=True)])


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(6, 3), Experts()

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.router(x).argmax(-1)
        order = chosen.argsort()
        gates = torch.zeros(x.shape[0], 3).scatter(1, chosen[:, None], 1)
        out = self.experts(x[order], gates.long().sum(0).tolist())
        return torch.zeros_like(x).index_copy(0, order, out)


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_a_part_that_cannot_take_the_runs_numbers_is_kept_whole_with_what_is_around_it() -> None:
    torch.manual_seed(0)
    model = ft.randomize(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), Mixture(), nn.Linear(6, 2))).eval()
    x = torch.randn(7, 4)
    plan = ft.plan(model, x)
    assert [o.path for o in plan.opaque] == ["3"]
    assert "it depends on the data" in plan.opaque[0].why
    assert plan.num_free == 8
    emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for given in (x, torch.randn(5, 4)):
        with torch.no_grad():
            assert torch.equal(model(given), emitted(given))


class Lengths(nn.Module):
    """A recurrent layer that leaves the padding out, between layers that do not know of lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Plainly(4, 6), nn.ReLU(), Plainly(6, 5), Packed(5), Plainly(3, 6), Plainly(6, 2)])

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        for part in self.parts:
            try:
                x = part(x, lengths=lengths)
            except TypeError:
                x = part(x)
        return x


class Plainly(nn.Module):
    def __init__(self, takes: int, gives: int) -> None:
        super().__init__()
        self.w = nn.Linear(takes, gives)

    def forward(self, x: Tensor) -> Tensor:
        return self.w(x)


class Packed(nn.Module):
    def __init__(self, takes: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(takes, 3, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        steps = (lengths * x.shape[1]).long()
        packed = nn.utils.rnn.pack_padded_sequence(x, steps.cpu(), batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_padding_that_a_recurrent_layer_leaves_out(mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    draw = torch.Generator().manual_seed(0)
    model, x = Lengths(), torch.randn(3, 8, 4, generator=draw)
    plan = assert_exact(model, x, torch.tensor([0.5, 1.0, 0.75]), mode=mode)
    assert plan.num_free == 6 + 5 + 3 + 6  # the recurrent layer's hidden units by their signs
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    others = [(x, torch.tensor([1.0, 0.25, 0.5])), (x[:2, :4], torch.tensor([0.5, 0.25])), (x[:1], torch.tensor([1.0]))]
    for other in others:
        assert torch.equal(network(*other), model(*other))
