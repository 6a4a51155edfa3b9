"""Inputs that are objects, as the cache of a language model: taken and given as they are."""

from __future__ import annotations

import copy
import dataclasses
import random
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fxteleport as ft


class Layer:
    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.is_filled = False

    def update(self, keys: Tensor) -> Tensor:
        self.keys = torch.cat([self.keys, keys], dim=1) if self.is_filled and self.keys is not None else keys
        self.is_filled = True
        return self.keys


class Memory:
    """Like a DynamicCache: layers that are added as they are needed."""

    kind = Layer

    def __init__(self, layers: int = 0) -> None:
        self.layers, self.made = [self.kind() for _ in range(layers)], self.kind

    def update(self, keys: Tensor, at: int) -> Tensor:
        while len(self.layers) <= at:
            self.layers.append(self.made())
        return self.layers[at].update(keys)


class Registered(Memory):
    """Registered for pytree, which says less than all of it."""


pytree.register_pytree_node(Registered, lambda m: ([x.keys for x in m.layers], None), lambda keys, _: Registered())


class Static(Layer):
    """Like a StaticLayer: written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.length = torch.zeros(2, 4, 6), torch.zeros((), dtype=torch.long)

    def update(self, keys: Tensor) -> Tensor:
        assert self.keys is not None
        self.keys.index_copy_(1, torch.arange(keys.shape[1]) + self.length, keys)
        self.length.add_(keys.shape[1])
        return self.keys


class StaticMemory(Memory):
    kind = Static


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"k": nn.Linear(6, 6), "a": nn.Linear(6, 12), "b": nn.Linear(12, 6)}) for _ in range(2)
        )

    def forward(self, x: Tensor, memory: Any = None) -> Any:
        for i, block in enumerate(self.blocks):
            seen = block["k"](x)
            seen = seen if memory is None else memory.update(seen, i)
            x = x + block["b"](torch.relu(block["a"](x + seen.mean(1, keepdim=True))))
        return {"x": x, "memory": memory}


def tokens(n: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(2, n, 6, generator=torch.Generator().manual_seed(seed))


def equal(a: Any, b: Any) -> bool:
    pairs = zip(a.layers, b.layers, strict=True)
    return all(_same(x.keys, y.keys) and vars(x).keys() == vars(y).keys() for x, y in pairs)


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize(
    "make", [Memory, lambda: Memory(2), Registered, lambda: Registered(2), lambda: StaticMemory(2)]
)
def test_a_memory_is_filled_and_read(make: Callable[[], Any], mode: str) -> None:
    """Prefill, then decode: each is as free as without, exact, and leaves in the memory what the model does."""
    model, memory = Decoder().eval(), make()
    before = copy.deepcopy(memory)
    alone = ft.plan(model, tokens(2), mode=mode)
    theirs, ours = make(), make()
    for x in (tokens(2), tokens(1, seed=1)):
        plan = ft.plan(model, x, copy.deepcopy(theirs), mode=mode)
        assert (plan.num_free, plan.moved) == (alone.num_free, alone.moved)
        assert not plan.opaque
        network = plan.rewrite(plan.sample(exact=True, seed=0))
        report = ft.verify(model, network, x, theirs)
        assert report.passed and report.bitwise_equal
        with torch.no_grad():
            expected, given = model(x, theirs), network(x, ours)
        assert given["memory"] is ours and type(ours) is type(theirs)
        assert torch.equal(expected["x"], given["x"]) and equal(theirs, ours)
    assert equal(memory, before)


@pytest.mark.parametrize("kind", ["DynamicCache", "StaticCache"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_caches_of_transformers(kind: str) -> None:
    """A decode step is as free as the prefill, exact, and fills the cache that it is given."""
    transformers = pytest.importorskip("transformers")
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50}
    config = transformers.LlamaConfig(hidden_size=16, intermediate_size=32, max_position_embeddings=64, **sizes)
    makers = {
        "DynamicCache": lambda: transformers.DynamicCache(),
        "StaticCache": lambda: transformers.StaticCache(config=config, max_cache_len=16),
    }
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    ids, free = torch.randint(0, 50, (2, 5)), set()
    theirs, ours = makers[kind](), makers[kind]()
    for step in (ids, ids[:, :1], ids[:, 1:2]):
        plan = ft.plan(model, input_ids=step, past_key_values=theirs)
        network = plan.rewrite(plan.sample(exact=True, seed=0))
        assert ft.verify(model, network, input_ids=step, past_key_values=theirs).bitwise_equal
        with torch.no_grad():
            expected = model(input_ids=step, past_key_values=theirs)
            given = network(input_ids=step, past_key_values=ours)
        assert torch.equal(expected.logits, given.logits) and given.past_key_values is ours
        assert theirs.get_seq_length() == ours.get_seq_length()
        free.add((plan.num_free, plan.moved))
    assert free == {(ft.plan(model, input_ids=ids).num_free, 1.0)}


# Biases of attention scores; and what T5 hands out, to the caller or in the cache: the encoder's last state, its keys
# and values.
HANDED_OUT = {
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder.final_layer_norm.weight",
    "decoder.block.0.layer.1.EncDecAttention.k.weight",
    "decoder.block.0.layer.1.EncDecAttention.v.weight",
}


def unmoved(plan: ft.Plan, model: torch.nn.Module) -> set[str]:
    """The parameters of which some values do not move."""
    scales = plan.scales(plan.sample(0.9, "inter", seed=0))
    ones = {n: torch.ones(()) for n, _ in model.named_parameters()}
    return {n for n, one in ones.items() if bool((torch.as_tensor(scales.get(n, one)) == 1).any())}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_encoders_and_a_decoders_cache() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config).eval()
    ids, start = torch.randint(1, 50, (2, 5)), torch.zeros(2, 1, dtype=torch.long)

    def empty() -> Any:
        return transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())

    theirs, ours = empty(), empty()
    for _ in range(2):
        plan = ft.plan(model, input_ids=ids, decoder_input_ids=start, past_key_values=theirs)
        network, given = plan.rewrite(plan.sample(exact=True, seed=0)), {"input_ids": ids, "decoder_input_ids": start}
        assert (
            unmoved(plan, model) == HANDED_OUT
            and ft.verify(model, network, **given, past_key_values=theirs).bitwise_equal
        )
        with torch.no_grad():
            expected, result = model(**given, past_key_values=theirs), network(**given, past_key_values=ours)
        assert torch.equal(expected.logits, result.logits) and result.past_key_values is ours
        assert theirs.is_updated == ours.is_updated and theirs.get_seq_length() == ours.get_seq_length()


def test_another_class_or_another_attribute_is_refused() -> None:
    memory = Memory(2)
    plan = ft.plan(Decoder(), tokens(), memory)
    network = plan.rewrite(plan.sample(exact=True, seed=0))
    more = Memory(2)
    more.other = 1  # type: ignore[attr-defined]
    filled = Memory(2)
    filled.update(tokens(), 0)
    for other in (Registered(2), more, filled, Memory(), None):
        with pytest.raises(ft.GuardError, match="captured with"):
            network(tokens(), other)


def test_a_deleted_attribute_keeps_the_model_whole() -> None:
    class Deletes(Decoder):
        def forward(self, x: Tensor, memory: Any = None) -> Any:
            del memory.first
            return super().forward(x)["x"]

    x = tokens()
    with pytest.warns(ft.OpaqueModuleWarning, match="deletes 'first'"):
        plan = ft.plan(Deletes(), x, SimpleNamespace(first=x))
    assert plan.num_free == 0


@dataclasses.dataclass
class Record:
    a: Any
    b: Any = None


class Holds:
    __slots__ = ("a",)

    def __init__(self, a: Any) -> None:
        self.a = a


class Reads(nn.Module):
    def __init__(self, how: int) -> None:
        super().__init__()
        self.a, self.b, self.how = nn.Linear(6, 8), nn.Linear(8, 6), how

    def forward(self, x: Tensor, given: Any) -> Any:
        y = self.b(torch.relu(self.a(x)))
        if self.how == 1:
            return y, given
        if self.how == 2 and hasattr(given, "a"):
            given.a = [y]
        if self.how == 3 and isinstance(given, list):
            given.append(y)
        return y


def _structure(draw: random.Random, depth: int = 0) -> Any:
    """Anything that may be given to a forward."""
    x = torch.zeros(2, 6)
    round_list: list[Any] = [x]
    round_list.append(round_list)
    leaves: list[Any] = [
        x, x.long(), None, "text", float("nan"), ..., lambda: x, (y for y in [x]), threading.Lock(), nn.ReLU(), Memory,
        {x}, b"b", round_list, nn.Parameter(x), torch.float32, x.to_sparse(), iter([x]), ValueError("v"),
    ]  # fmt: skip
    makers: list[Callable[[Any, Any], Any]] = [
        lambda a, b: [a, b], lambda a, b: (a, b), lambda a, b: {"a": a, 2: b}, Record, lambda a, b: Holds(a),
        lambda a, b: SimpleNamespace(a=a, b=b), lambda a, b: SimpleNamespace(a=a, b=a),
    ]  # fmt: skip
    if depth == 3 or draw.random() < 0.3:
        return draw.choice(leaves)
    return draw.choice(makers)(_structure(draw, depth + 1), _structure(draw, depth + 1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(40))
def test_any_structure_is_exact_or_refused(seed: int) -> None:
    """No plan ends in an exception that is not the project's own."""
    draw = random.Random(seed)
    model, given = Reads(draw.randrange(4)), _structure(draw)
    try:
        plan = ft.plan(model, tokens()[:, 0], given)
    except ft.TeleportError:
        return
    assert ft.verify(model, plan.rewrite(plan.sample(exact=True, seed=0)), tokens()[:, 0], given).bitwise_equal


class Store:
    """Holds tensors, and by a weak reference what holds it: as the storage of a graph's data does."""

    def __init__(self, owner: Any, x: Tensor, edges: Tensor) -> None:
        self.held, self.owner = {"x": x, "edges": edges}, weakref.ref(owner)


class Graph:
    def __init__(self, nodes: int, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        edges = torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])
        self.store = Store(self, torch.randn(nodes, 4, generator=draw), edges)

    def __getattr__(self, name: str) -> Any:
        held = vars(self).get("store")
        if held is None or name not in held.held:
            raise AttributeError(name)
        return held.held[name]

    def neighbours(self) -> Tensor:
        return self.store.owner().edges  # there and back


class Messages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, graph: Graph) -> Tensor:
        x = torch.relu(self.first(graph.x))
        start, end = graph.neighbours()
        return self.second(torch.zeros_like(x).index_add(0, end, x[start]))


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_what_a_storage_refers_back_to(mode: str, assert_exact: Callable[..., ft.Plan]) -> None:
    model = Messages()
    plan = assert_exact(model, Graph(5), mode=mode)
    assert plan.num_free == 6
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for graph in (Graph(5, 1), Graph(8, 2)):
        before = vars(graph.store).copy()
        assert torch.equal(network(graph), model(graph))
        assert vars(graph.store) == before
        assert graph.store.owner() is graph
    with pytest.raises(ft.GuardError):
        other = Graph(5)
        del other.store.held["edges"]
        network(other)


def test_a_weak_reference_to_something_else_is_no_part_of_an_input() -> None:
    graph, other = Graph(5), Graph(5)
    graph.store.owner = weakref.ref(other)
    with pytest.raises(ft.CaptureError, match="no graph can hold"):
        ft.plan(Messages(), graph)
