"""Tensors that `forward` makes itself and writes to: constants, index tables, masks, state, and random numbers.

Each program is planned, teleported by powers of two with signs, and must give what the model gives, bit for bit, on
three runs in a row (nothing may leak from one into the next) and on other data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft


class Net(nn.Module):
    """Layers, buffers and a plain tensor for a program to use."""

    def __init__(self, program: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.program = program
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.wide = nn.Linear(16, 4)
        self.register_buffer("index", torch.arange(8))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("scale", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.program(self, x)


@dataclass(frozen=True)
class Program:
    """What a forward does, and how many values are free (in both modes: nothing needs another operation)."""

    run: Callable[[Net, Tensor], Tensor]
    free: int


PROGRAMS: dict[str, Program] = {}


def program(free: int) -> Callable[[Callable[[Net, Tensor], Tensor]], None]:
    def register(fn: Callable[[Net, Tensor], Tensor]) -> None:
        PROGRAMS[fn.__name__] = Program(fn, free)

    return register


# -- tensors made from no input, and then written to ---------------------------------------------------------------


@program(free=8)
def zeros_of_the_batch(net: Net, x: Tensor) -> Tensor:
    made = torch.zeros(x.shape[0], 16)
    made[:, 4:12] = net.a(x)
    return net.wide(made)


@program(free=8)
def zeros_of_a_known_size(net: Net, x: Tensor) -> Tensor:
    made = torch.zeros(3, 16)
    made[:, 4:12] = net.a(x)
    made = made * 2  # no proxy is in sight here, but for what was written
    return net.wide(made)


@program(free=8)
def zeros_as_long_as_the_input(net: Net, x: Tensor) -> Tensor:
    made = torch.zeros(len(x), 16)
    made[:, 4:12] = net.a(x)
    return net.wide(made)


@program(free=8)
def ones_around_it(net: Net, x: Tensor) -> Tensor:
    made = torch.ones(3, 16)
    made[:, 4:12] = net.a(x)
    return net.wide(made)


@program(free=8)
def memory_filled_in_two_parts(net: Net, x: Tensor) -> Tensor:
    made = torch.empty(3, 16)
    made[:, :8] = net.a(x)
    made[:, 8:] = net.a(x)
    return net.wide(made)


@program(free=8)
def a_sum_that_grows(net: Net, x: Tensor) -> Tensor:
    total = torch.zeros(3, 8)
    for _ in range(3):
        total += net.a(x)
    return net.c(total)


@program(free=8)
def a_sum_that_begins_with_zeros(net: Net, x: Tensor) -> Tensor:
    total = torch.zeros(3, 8)
    for _ in range(3):
        total = total + net.a(x)
    return net.c(total)


@program(free=8)
def columns_one_by_one(net: Net, x: Tensor) -> Tensor:
    hidden, columns = net.a(x), [torch.zeros(3) for _ in range(8)]
    for i in range(8):
        columns[i][:] = hidden[:, i]
    return net.c(torch.stack(columns, 1))


@program(free=0)  # what is written in place and read through another view is pinned
def a_view_of_zeros(net: Net, x: Tensor) -> Tensor:
    made = torch.zeros(3, 16)
    made[:, 4:12].add_(net.a(x))
    return net.wide(made)


@program(free=0)  # a constant that is added
def another_view_of_a_constant(net: Net, x: Tensor) -> Tensor:
    hidden, made = net.a(x), torch.zeros(3, 8)
    view = made.view_as(hidden)
    view += 1
    return net.c(hidden + view)


# -- constants that change between their uses ----------------------------------------------------------------------


@program(free=8)
def a_constant_that_grows(net: Net, x: Tensor) -> Tensor:
    hidden, constant = net.a(x), torch.ones(8)
    once = hidden * constant
    constant += 1
    return net.c(once + hidden * constant)


@program(free=8)
def an_array_of_numpy(net: Net, x: Tensor) -> Tensor:
    hidden, constant = net.a(x), torch.ones(8)
    once, memory = hidden * constant, constant.numpy()
    memory += 1  # torch does not know
    return net.c(once + hidden * constant)


@program(free=1)  # where the index pointed at its first use is not known any more
def an_index_that_moves(net: Net, x: Tensor) -> Tensor:
    hidden = net.a(x)
    index = torch.arange(hidden.shape[1]).flip(0)
    once = hidden[:, index]
    index += 1
    index %= 8
    return net.c(once + hidden[:, index])


@program(free=1)
def a_copy_of_a_buffer_that_moves(net: Net, x: Tensor) -> Tensor:
    hidden, index = net.a(x), net.index.clone()
    once = hidden[:, index]
    index[0] = 3
    return net.c(once * hidden[:, index])


@program(free=8)
def an_index_filled_before_its_use(net: Net, x: Tensor) -> Tensor:
    index = torch.zeros(8, dtype=torch.long)
    index[:4] = net.index[4:]
    index[4:] = net.index[:4]
    return net.c(net.a(x)[:, index])


@program(free=8)
def a_mask_that_grows(net: Net, x: Tensor) -> Tensor:
    hidden = net.a(x)
    mask = torch.zeros(hidden.shape, dtype=torch.bool)
    mask[:, 2:5] = True
    once = hidden.masked_fill(mask, 0.0)
    mask[:, 1] = True
    return net.c(once + hidden.masked_fill(mask, 0.0))


# -- state: buffers that each run finds as the last one left them -----------------------------------------------------


@program(free=8)
def a_counter(net: Net, x: Tensor) -> Tensor:
    net.count += 1
    return net.c(net.a(x))


@program(free=1)
def an_index_that_is_state(net: Net, x: Tensor) -> Tensor:
    net.index.add_(1).remainder_(8)
    return net.c(net.a(x)[:, net.index])


@program(free=1)
def an_index_made_from_state(net: Net, x: Tensor) -> Tensor:
    index = (net.index + 1) % 8
    net.index.copy_(index)
    return net.c(net.a(x)[:, index])


@program(free=1)
def a_number_read_from_state(net: Net, x: Tensor) -> Tensor:
    rolled = net.a(x).roll(net.count.item(), 1)
    net.count += 1
    return net.c(rolled)


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_exact_on_every_run(name: str, mode: str) -> None:
    model, x = ft.randomize(Net(PROGRAMS[name].run).eval()), torch.randn(3, 6)
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    plan = ft.plan(model, x, mode=mode)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()), "planning changed the model"
    assert torch.equal(drawn, torch.get_rng_state()), "planning drew random numbers"
    assert not plan.opaque
    assert plan.num_free == PROGRAMS[name].free
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    network = plan.rewrite(cob)
    with torch.no_grad():
        for inputs in (x, x, torch.randn(3, 6)):
            assert torch.equal(network(inputs), model(inputs))
    model.load_state_dict(before)
    assert ft.verify(model, plan.rewrite(cob), x).bitwise_equal


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_a_buffer_that_is_read_and_replaced_keeps_its_module_whole() -> None:
    class Averages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return x - self.mean

    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), Averages()).eval(), torch.randn(3, 6)
    plan = ft.plan(model, x)
    assert plan.num_free == 8
    assert "puts another tensor in the place of '3.mean'" in plan.opaque[0].why
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for _ in range(3):
        assert torch.equal(network(x), model(x))


def test_a_buffer_that_is_moved_is_no_state() -> None:
    def moved(net: Net, x: Tensor) -> Tensor:
        net.scale = net.scale.to(x.device, x.dtype)
        return net.c(net.a(x) * net.scale)

    plan = ft.plan(Net(moved).eval(), torch.randn(3, 6))
    assert plan.num_free == 16  # the neurons, and the buffer that scales them
    assert not plan.opaque


def test_a_branch_on_state_is_refused_where_it_would_turn() -> None:
    def first_time(net: Net, x: Tensor) -> Tensor:
        hidden = net.a(x)
        if net.count == 0:
            hidden = hidden * 2
        net.count += 1
        return net.c(hidden)

    model, x = Net(first_time).eval(), torch.randn(3, 6)
    network = ft.teleport(model, x, exact=True, seed=0)
    assert torch.equal(network(x), model(x))
    with pytest.raises(ValueError, match="captured with"):
        network(x)


class Adds(nn.Module):
    """A part that cannot be traced, and that writes to what it gets."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > -1e9:
            x.add_(1)
        return x.mean()


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
@pytest.mark.parametrize("constant", [False, True])
def test_what_a_part_kept_whole_writes_is_not_lost(constant: bool) -> None:
    def written(net: Net, x: Tensor) -> Tensor:
        hidden = net.a(x) * 1
        given = torch.zeros(3, 8) if constant else hidden
        net.adds(given)
        return net.c(hidden + given)

    model, x = Net(written).eval(), torch.randn(3, 6)
    model.adds = Adds()
    plan = ft.plan(model, x)
    assert bool(plan.opaque) is not constant  # what it does to a constant is done once, in Python
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for _ in range(3):
        assert torch.equal(network(x), model(x))


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
def test_what_cannot_be_recorded_keeps_its_module_whole() -> None:
    inner = Net(lambda net, x: net.c(_summed(torch.Tensor(3, 8).zero_(), net.a(x))))
    model, x = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), inner).eval(), torch.randn(3, 6)
    plan = ft.plan(model, x)
    assert [o.path or o.node for o in plan.opaque]
    assert plan.num_free == 6  # before the part that is kept whole
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    assert torch.equal(network(x), model(x))


def _summed(made: Tensor, hidden: Tensor) -> Tensor:
    made += hidden
    return made


# -- random numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "permuted",
    [
        lambda h: h[:, torch.randperm(8)],
        lambda h: h[:, torch.randperm(h.shape[1])],
        lambda h: h[:, torch.randint(8, (8,))],
    ],
    ids=["known size", "size of the input", "with repetition"],
)
def test_a_random_index_is_drawn_anew(permuted: Callable[[Tensor], Tensor]) -> None:
    model, x = ft.randomize(Net(lambda net, x: net.c(permuted(net.a(x)))).eval()), torch.randn(3, 6)
    plan = ft.plan(model, x)
    assert plan.num_free == 1  # one for all that may be picked
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for seed in range(3):
        outputs = []
        for each in (model, network):
            torch.manual_seed(seed)
            outputs.append(each(x))
        assert torch.equal(*outputs)


# -- numbers that depend on the data ----------------------------------------------------------------------------------

CHOICES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "item": lambda h, k: h[:, k][:, None].expand(-1, 8),
    "slice": lambda h, k: h[:, k : k + 1].expand(-1, 8),
    "list": lambda h, k: h[:, [k, 1]].sum(1, keepdim=True).expand(-1, 8),
    "narrow": lambda h, k: h.narrow(1, k, 1).expand(-1, 8),
    "select": lambda h, k: h.select(1, k)[:, None].expand(-1, 8),
    "roll": lambda h, k: h.roll(k, 1),
    "index": lambda h, k: h[:, (torch.arange(8) + k) % 8],
    "split": lambda h, k: torch.cat(h.split([k, 8 - k], 1)[::-1], 1),
    "axis": lambda h, k: h[:, :3].select(k % 2, 0).repeat(3, 3)[:, :8],
    "axis of parts": lambda h, k: torch.stack(h[:, :3].unbind(k % 2)).repeat(1, 3)[:, :8],
    "reshape": lambda h, k: h.reshape(k + 1, -1).mean() + 0 * h,
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_number_from_the_data_is_not_known(name: str) -> None:
    class Chooses(Net):
        def forward(self, x: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
            return self.c(CHOICES[name](self.a(x).relu(), k[0].item()))

    model, x = ft.randomize(Chooses(lambda net, x: x).eval()), torch.randn(3, 6)
    plan = ft.plan(model, x, torch.tensor([2]))
    assert plan.num_free == (6 if "axis" in name else 1)  # one for all that may be picked
    network = plan.rewrite(plan.sample(0.9, exact=True, seed=0))
    for k in (2, 5, 0):
        if name != "reshape" or 24 % (k + 1) == 0:
            assert torch.equal(network(x, torch.tensor([k])), model(x, torch.tensor([k])))


def test_places_from_the_data_to_split_at() -> None:
    class Splits(Net):
        def forward(self, x: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
            parts = self.a(x).relu().t().tensor_split(k, 1)
            return self.c(torch.cat(parts[::-1], 1).t())

    model, x = ft.randomize(Splits(lambda net, x: x).eval()), torch.randn(3, 6)
    plan = ft.plan(model, x, torch.tensor([2]))
    assert plan.num_free == 8
    network = plan.rewrite(plan.sample(0.9, exact=True, seed=0))
    for k in (2, 5, 0):
        assert torch.equal(network(x, torch.tensor([k])), model(x, torch.tensor([k])))


def test_a_length_from_the_data_leaves_the_channels_free() -> None:
    class Shortened(Net):
        def forward(self, x: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
            hidden = self.a(x)[: k[0].item()]
            return self.c(hidden.reshape(k[0].item(), 1, 8))

    model, x = ft.randomize(Shortened(lambda net, x: x).eval()), torch.randn(3, 6)
    plan = ft.plan(model, x, torch.tensor([2]))
    assert plan.num_free == 8
    network = plan.rewrite(plan.sample(0.9, exact=True, seed=0))
    for k in (2, 1, 3):
        assert torch.equal(network(x, torch.tensor([k])), model(x, torch.tensor([k])))


# -- shapes that change in place --------------------------------------------------------------------------------------


def _unsqueezed(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([(a * 1).unsqueeze_(1), (b * 1).unsqueeze_(1)], 1).sum(1)


def _turned(a: Tensor, b: Tensor) -> Tensor:
    product = a * b
    positive = product.relu()
    product.t_()
    return product.t() + positive


def _squeezed(a: Tensor, b: Tensor) -> Tensor:
    first, second = (a * 1)[None], (b * 1)[None]
    first.squeeze_(0)
    second.squeeze_(0)
    return first * second


def _resized(a: Tensor, b: Tensor) -> Tensor:
    both = torch.cat([a, b], 1)
    return both.resize_(3, 2, 8).sum(1)


def _half(a: Tensor, b: Tensor) -> Tensor:  # what is written in place and read through another view is pinned
    parts = list((a * b).chunk(2, 1))
    parts[0].unsqueeze_(0)
    return torch.cat([parts[0][0], parts[1]], 1)


@pytest.mark.parametrize(
    ("program", "free"), [(_unsqueezed, 8), (_turned, 16), (_squeezed, 16), (_resized, 0), (_half, 8)]
)
def test_a_shape_changed_in_place(
    program: Callable[[Tensor, Tensor], Tensor], free: int, assert_exact: Callable[..., ft.Plan]
) -> None:
    """The nodes before it keep the shape that they had."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.c(program(net.a(x), net.b(net.a(x).tanh())))

    plan = assert_exact(Net(run), torch.randn(3, 6), at_least=0)
    assert plan.num_free == free


def test_zeros_written_into_a_batch_of_one() -> None:
    """The map of the value that is written to has the form of the tensor then: it must not be written to itself."""

    def written(net: Net, x: Tensor) -> Tensor:
        hidden = net.a(x)
        copy = hidden.clone()
        copy[:, 1] = 0.0
        return net.c(copy) + net.c(hidden + net.b(torch.tanh(hidden)))

    model, x = ft.randomize(Net(written).eval()), torch.randn(1, 6)
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(0.9, exact=True, seed=0))
    assert ft.verify(model, network, x).bitwise_equal
    assert plan.num_free == 7  # zeros that are contracted have the CoB 1


def test_values_put_into_a_batch_of_one() -> None:
    def put(net: Net, x: Tensor) -> Tensor:
        hidden = net.a(x)
        added = hidden + net.b(torch.tanh(hidden))
        copy = hidden.clone().index_copy_(1, torch.tensor([1]), added[:, :1])
        return net.c(copy) + net.wide(torch.cat([added, added], 1))

    model, x = ft.randomize(Net(put).eval()), torch.randn(1, 6)
    plan = ft.plan(model, x)
    network = plan.rewrite(plan.sample(0.9, exact=True, seed=0))
    assert ft.verify(model, network, x).bitwise_equal
    assert plan.num_free == 8


def test_a_mask_from_the_data_pins_what_it_picks_from() -> None:
    class Masked(Net):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
            return self.c(self.a(x)[:, mask].repeat(1, 2))

    model, x = ft.randomize(Masked(lambda net, x: x).eval()), torch.randn(3, 6)
    mask = torch.arange(8) % 2 == 0
    plan = ft.plan(model, x, mask)
    assert plan.num_free == 0
    assert plan.opaque[0].why == "'getitem': it is picked by a mask that is not known before the run"
    network = plan.rewrite(plan.sample(0.9, exact=True, seed=0))
    for each in (mask, ~mask):
        assert torch.equal(network(x, each), model(x, each))


def test_a_buffer_that_is_made_anew_by_its_size_is_no_state() -> None:
    """timm's ConViT keeps its relative positions so: for the size that it saw last."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.zeros(1), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            if self.scale.shape[0] != x.shape[1]:
                self.scale = torch.linspace(1, 2, x.shape[1])
            return x * self.scale

    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Positions(), nn.Linear(8, 4)).eval(), torch.randn(3, 6)
    plan = ft.plan(model, x)
    assert plan.num_free == 8
    assert not plan.opaque
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for _ in range(3):
        assert torch.equal(network(x), model(x))
    assert ft.verify(model, ft.plan(model, x).rewrite(ft.plan(model, x).sample(exact=True, seed=1)), x).bitwise_equal


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
@pytest.mark.parametrize("program", ["of the input", "of its size", "of a weight"])
def test_a_buffer_that_the_first_run_fills_is_state(program: str) -> None:
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("held", torch.zeros(0))
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            size = self.held.numel()
            if program == "of its size":
                self.held = torch.ones(size + 8)
                return x * (1 + size)
            if size == 0:
                self.held = x.mean(0) if program == "of the input" else 2 * self.weight
            return x * self.held

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Filled(), nn.Linear(8, 4)).eval()
    plan = ft.plan(model, torch.randn(3, 6))
    assert "puts another tensor in the place of '2.held'" in plan.opaque[0].why
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    for _ in range(3):
        x = torch.randn(3, 6)
        assert torch.equal(network(x), model(x))


class Augmented(nn.Module):
    """`h[i] += y` and its like: a view is taken, written in place, and put back where it is already."""

    def __init__(self, write: Callable[[Augmented, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(8, 16), nn.Linear(16, 2)
        self.own, self.write = nn.Parameter(torch.ones(8)), write

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.write(self, self.a(x), self.b(x))))


def plus(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    h[:, :8] += y[:, 8:]
    return h


def times(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    h[:, :8] *= net.own
    return h + y


def plus_a_number(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    h[:, :3] += 1
    return h


def twice(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    h[:, :8] += net.own
    h[:, 4:12] -= net.own
    return h


def of_itself(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    h[:, :8] += torch.relu(h[:, :8])
    return h


def another_name(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    k = h
    h[:, :4] *= 2
    return h + k


def view_of_before(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    view = h[:, :8]
    h[:, :8] += 1
    return h + net.c(view)


def view_of_after(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    h[:, :8] += 1
    return h + net.c(h[:, :8])


def view_kept(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    view = kept = h[:, :8]
    view *= net.own
    h[:, :8] = view
    return h + net.c(kept)


def by_hand(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    view = h[:, :8]
    view *= net.own
    h[:, :8] = view
    return h


def put_elsewhere(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    view = h[:, :8]
    view *= net.own
    h[:, 8:] = view
    return h


def in_place_alone(net: Augmented, h: Tensor, y: Tensor) -> Tensor:
    h[:, :8].mul_(net.own)
    return h


AUGMENTED = {  # the free values, of 16 of a, 16 of b and 8 of the parameter; c has none
    plus: 24, times: 24, plus_a_number: 13, twice: 8, of_itself: 16, another_name: 16, view_of_before: 0,
    view_of_after: 8, view_kept: 0, by_hand: 24, put_elsewhere: 0, in_place_alone: 0,
}  # fmt: skip
SHIFTED = {plus_a_number: 16, view_of_after: 16}  # in mode="full", where x + 1 is wrapped


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("write", AUGMENTED)
def test_augmented_assignments(write: Callable[..., Tensor], mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    plan = assert_exact(Augmented(write), torch.randn(3, 6), mode=mode, at_least=0)
    free = SHIFTED.get(write, AUGMENTED[write]) if mode == "full" else AUGMENTED[write]
    assert (plan.num_free, plan.opaque) == (free, [])
