"""Caches: what a call gives, a later one takes, with the CoB that it was given."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from random_networks import seeded
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.passes.constrain.caches import Caches


class Attention(nn.Module):
    """One head that looks at the keys and values of all calls."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 5)
        self.out = nn.Linear(5, 6)

    def forward(self, x: Tensor, keys: Tensor | None, values: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        k, v = self.key(x), self.value(x)
        k = k if keys is None else torch.cat([keys, k], 1)
        v = v if values is None else torch.cat([values, v], 1)
        weights = (self.query(x) @ k.mT).softmax(-1)
        return x + self.out(weights @ v), k, v


class Decoder(nn.Module):
    """Two layers, with a cache in one of these forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.embed, self.layers, self.head = (
            nn.Embedding(9, 6),
            nn.ModuleList([Attention(), Attention()]),
            nn.Linear(6, 9),
        )

    def forward(self, ids: Tensor, past: Any = None) -> Any:
        x = self.embed(ids)
        new = []
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, *self.held(past, i))
            new.append((k, v))
        return self.head(x.tanh()), self.kept(past, new)

    def held(self, past: Any, i: int) -> tuple[Tensor | None, Tensor | None]:
        if past is None:
            return None, None
        if self.form == "a dictionary, changed":
            return past[f"k{i}"], past[f"v{i}"]
        if self.form == "objects, changed":
            return past.layers[i].k, past.layers[i].v
        pair: tuple[Tensor, Tensor] = past[i]
        return pair

    def kept(self, past: Any, new: list[tuple[Tensor, Tensor]]) -> Any:
        if self.form == "a dictionary, changed":
            past = {} if past is None else past
            past.update({f"{n}{i}": t for i, pair in enumerate(new) for n, t in zip("kv", pair, strict=True)})
            return past
        if self.form == "objects, changed":
            if past is None:
                return SimpleNamespace(layers=[SimpleNamespace(k=k, v=v) for k, v in new])
            for layer, (k, v) in zip(past.layers, new, strict=True):
                layer.k, layer.v = k, v
            return past
        return tuple(new) if self.form == "tuples" else list(map(list, new))


FORMS = ["tuples", "lists", "a dictionary, changed", "objects, changed"]
IDS = torch.arange(14).view(2, 7) % 9


def decoder(form: str) -> Decoder:
    torch.manual_seed(0)
    return ft.randomize(Decoder(form).eval())


@pytest.mark.parametrize("mode", ["full", "weights"])
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_network_goes_on_with_what_it_gave(form: str, mode: str) -> None:
    model = decoder(form)
    prompt: Any = ((IDS[:, :4],), {})
    filled = model(IDS[:, :4])[1]
    calls = {"calls": [prompt], "mode": mode, "checks": True}
    pinned = ft.plan(model, IDS[:, 4:5], copy.deepcopy(filled), **calls)
    cached: Any = "teleported" if form.startswith("objects") else ["past"]
    plan = ft.plan(model, IDS[:, 4:5], copy.deepcopy(filled), cached=cached, **calls)
    assert plan.num_free == pinned.num_free + 2 * (4 + 5)  # each key, and each value
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    network = plan.rewrite(cob)
    for args in ((IDS[:, 4:5], filled), (IDS[:, :4],)):
        assert ft.verify(model, network, *copy.deepcopy(args)).bitwise_equal
    if mode == "weights":
        network = plan.apply_(cob, copy.deepcopy(model))
    held = moved = None
    for ids in (IDS[:, :3], IDS[:, 3:4], IDS[:, 4:]):
        given: Any = () if held is None else (held,)
        also: Any = () if moved is None else (moved,)
        expected, held = model(ids, *given)
        found, moved = network(ids, *also)
        assert torch.equal(expected, found)
    assert not torch.equal(keys_in(held), keys_in(moved))


def keys_in(held: Any) -> Tensor:
    found: Tensor = (
        held["k0"] if isinstance(held, dict) else held[0][0] if isinstance(held, (tuple, list)) else held.layers[0].k
    )
    return found


@torch.no_grad()
def test_a_cache_of_the_original_is_teleported() -> None:
    model = decoder("tuples")
    filled = model(IDS[:, :4])[1]
    plan = ft.plan(model, IDS[:, 4:5], filled, cached=["past"])
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    network = plan.rewrite(cob)
    args, kwargs = plan.teleport_inputs(cob, IDS[:, 4:5], past=filled)
    assert torch.equal(network(*args, **kwargs)[0], model(IDS[:, 4:5], filled)[0])
    assert not torch.equal(network(IDS[:, 4:5], filled)[0], model(IDS[:, 4:5], filled)[0])
    with pytest.raises(ft.CheckpointError, match="one call"):
        ft.save("/nowhere", network, "decoder")


@torch.no_grad()
def test_the_option_is_no_argument_of_forward() -> None:
    model = decoder("objects, changed")
    prompt: Any = ((IDS[:, :4],), {})
    given = IDS[:, 4:5], model(IDS[:, :4])[1]
    plan = ft.plan(model, *copy.deepcopy(given), cache="teleported", calls=[prompt])
    assert plan.num_free == ft.plan(model, *given, cached="teleported", calls=[prompt]).num_free
    with pytest.raises(ft.InputError, match="unknown cached 'moved'"):
        ft.plan(model, *given, cache="moved")


class Replaced(nn.Module):
    """The state is what the call before has computed, and nothing else ties it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, held: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h = self.first(x)
        return self.last(h * torch.relu(held[0] @ torch.eye(4))), [h]


@torch.no_grad()
def test_a_wrong_tie_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, given = ft.randomize(Replaced().eval()), (torch.randn(2, 3), [torch.randn(2, 4)])
    for is_tied in (True, False):
        if not is_tied:
            monkeypatch.setattr(Caches, "tie", lambda *args: None)
        plan = ft.plan(model, *given, cached=["held"])
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        assert ft.verify(model, network, *given).passed is is_tied


class Hidden(nn.Module):
    """What is given to code that is kept whole stays as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, held: SimpleNamespace) -> tuple[Tensor, SimpleNamespace]:
        h = self.first(x)
        h = h + (held.h if self.looked_into(held) else -held.h)
        held.h = h
        return self.last(h), held

    def looked_into(self, held: SimpleNamespace) -> bool:
        return bool(held.h.sum() > 0)


@pytest.mark.filterwarnings("ignore::fxteleport.OpaqueModuleWarning")
@torch.no_grad()
def test_a_cache_that_code_looks_into_is_right() -> None:
    torch.manual_seed(0)
    model = ft.randomize(Hidden().eval())
    x, state = torch.randn(2, 3), torch.randn(2, 4)
    try:
        plan = ft.plan(model, x, SimpleNamespace(h=state), cached="teleported")
    except ft.InputError:
        return
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert ft.verify(model, network, x, SimpleNamespace(h=state)).bitwise_equal


class TwoStates(nn.Module):
    def forward(self, x: Tensor, a: list[Tensor], b: list[Tensor]) -> Any:
        return x + a[0] * b[0], [a[0] + x]


@pytest.mark.parametrize(
    ("cached", "calls", "given", "said"),
    [
        ("teleported", [], (Decoder("tuples"), IDS), "no cache to teleport"),
        ("teleported", [], None, r"cached=\['past'\]"),
        ("moved", [], None, "unknown cached"),
        ("ab", [], (TwoStates(), torch.ones(2), [torch.ones(2)], [torch.ones(2)]), "which is which"),
        (["past"], [((torch.ones(2, 4),), {})], None, "call 1: the model does not run"),
        (["past"], [(torch.ones(2), {})], None, "pairs of a tuple"),
    ],
)
def test_what_is_no_cache_is_refused(cached: Any, calls: Any, given: Any, said: str) -> None:
    if given is None:
        model = decoder("tuples")
        given = model, IDS[:, 4:5], model(IDS[:, :4])[1]
    with pytest.raises(ft.TeleportError, match=said):
        ft.plan(*given, cached=list(cached) if cached == "ab" else cached, calls=calls)


@torch.no_grad()
def test_one_plan_of_several_calls() -> None:
    """With caches as they are: the network takes each call of the plan, and no other."""
    model = decoder("tuples")
    filled = model(IDS[:, :4])[1]
    network = ft.teleport(model, IDS, exact=True, seed=0)
    with pytest.raises((ft.GuardError, TypeError)):
        network(IDS[:, 4:5], filled)
    plan = ft.plan(model, IDS, calls=[((IDS[:, 4:5], filled), {})])
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    for net in (network, copy.deepcopy(network)):
        assert torch.equal(net(IDS)[0], model(IDS)[0])
        assert torch.equal(net(IDS[:, 4:5], filled)[0], model(IDS[:, 4:5], filled)[0])
        assert torch.equal(net(IDS[:, 4:5], past=filled)[0], model(IDS[:, 4:5], filled)[0])
        with pytest.raises(ft.GuardError):
            net(IDS[:, 4:5], filled[:1])


class AsksInPrompts(Decoder):
    """Train mode matters, but not beside a cache."""

    def forward(self, ids: Tensor, past: Any = None) -> Any:
        out, held = super().forward(ids, past)
        return (out * 2 if past is None and (self.training or self.head.training) else out), held


@torch.no_grad()
def test_a_mode_that_matters_in_one_call_is_refused() -> None:
    model = ft.randomize(AsksInPrompts("tuples").eval())
    filled = model(IDS[:, :4])[1]
    plan = ft.plan(model, IDS[:, 4:5], filled, calls=[((IDS,), {})])
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(IDS)[0], model(IDS)[0])
    assert any(condition.kind == "mode" for condition in plan.conditions)
    for part in (network, network.head):
        network.eval()
        part.train()
        for args in ((IDS,), (IDS[:, 4:5], filled)):
            with pytest.raises(ft.InputError, match="one of the calls"):
                network(*args)


@torch.no_grad()
def test_a_language_model_generates_the_same() -> None:
    """transformers' own loop, with weights that were teleported in place, and the emitted network step by step."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = ft.randomize(transformers.LlamaForCausalLM(config).eval())
    ids = torch.arange(10).view(2, 5) + 3
    filled = model(ids[:, :4], use_cache=True).past_key_values
    prompt: Any = ((), {"input_ids": ids, "use_cache": True})
    given: Any = {"input_ids": ids[:, 4:], "past_key_values": filled, "use_cache": True}
    pinned = ft.plan(model, mode="weights", calls=[prompt], **copy.deepcopy(given))
    plan = ft.plan(model, mode="weights", cached="teleported", calls=[prompt], **copy.deepcopy(given))
    assert plan.num_free == pinned.num_free + 2 * (
        8 + 16
    )  # of two layers: a key for each pair of positions, each value
    cob = plan.sample(0.9, "inter", exact=True, seed=0)
    moved, network = plan.apply_(cob, copy.deepcopy(model)), plan.rewrite(cob)
    how = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    tokens = model.generate(ids, **how)
    assert torch.equal(tokens, moved.generate(ids, **how))
    out, original = network(**prompt[1]), model(**prompt[1])
    for _ in range(5):
        last = out.logits[:, -1:].argmax(-1)
        assert torch.equal(last, original.logits[:, -1:].argmax(-1))
        out = network(input_ids=last, past_key_values=out.past_key_values, use_cache=True)
        original = model(input_ids=last, past_key_values=original.past_key_values, use_cache=True)
        assert torch.equal(out.logits, original.logits)


class Recurrent(nn.Module):
    """A random network, called again and again: some of its values are its state, and are added to its first input."""

    def __init__(self, network: nn.Module, x: Tensor, states: list[tuple[int, Tensor]]) -> None:
        super().__init__()
        self.network, self.states = network, [i for i, _ in states]
        self.back = nn.ModuleList(nn.Linear(h.flatten(1).shape[1], x.shape[-1], dtype=x.dtype) for _, h in states)

    def forward(self, inputs: list[Tensor], held: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        x, *rest = inputs
        for i, layer in zip(self.states, self.back, strict=True):
            x = x + layer(held[f"h{i}"].flatten(1)).view(-1, *[1] * (x.ndim - 2), x.shape[-1])
        values = self.network.values([x, *rest])  # type: ignore[operator]
        return values[-1:], {f"h{i}": values[i] for i in self.states}


@pytest.mark.parametrize("number", range(40))
@torch.no_grad()
def test_random_recurrences(number: int) -> None:
    """A network that is drawn, and keeps two of its values: exact from call to call, in every mode."""
    network, inputs = (script := seeded(11, number, most=8)).make()
    values = list(enumerate(network.values(inputs)))[len(inputs) :]
    states = [(i, v) for i, v in values if v.ndim > 1 and v.shape[0] == inputs[0].shape[0] and v.dtype == script.dtype]
    if not states:
        pytest.skip("none of its values has its batch")
    torch.manual_seed(0)
    model = ft.randomize(Recurrent(network.made(), inputs[0], states[:2]).float()).to(script.dtype).eval()
    start: Any = {f"h{i}": torch.zeros_like(v).normal_() for i, v in states[:2]}
    for mode in ("full", "weights"):
        plan = ft.plan(model, given(inputs), start, cached=["held"], mode=mode)
        network = plan.rewrite(cob := plan.sample(0.9, "inter", exact=True, seed=3))
        assert ft.verify(model, network, given(inputs), start).first_difference is None
        held, moved = start, plan.teleport_inputs(cob, given(inputs), start)[0][1]
        for call in range(3):
            torch.manual_seed(call)
            expected, held = model(given(inputs), held)
            torch.manual_seed(call)
            found, moved = network(given(inputs), moved)
            if not all(bool(x.abs().max() < 1e3) for x in (*expected, *held.values())):
                break
            assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(expected, found, strict=True))


def given(inputs: list[Tensor]) -> list[Tensor]:
    """Inputs for a network that may write into them."""
    return [x.clone() for x in inputs]
