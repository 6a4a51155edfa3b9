"""The original and the rewritten graph side by side: only what changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor, fx, nn

from fxteleport.passes.domain.cob_map import compress
from fxteleport.passes.graph.node_info import info
from fxteleport.passes.rewrite.own_epsilon import OwnEpsilon
from fxteleport.passes.rewrite.teleported_modules import Rescale, TeleportedActivation, described
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.plan import Plan
from fxteleport.tools.console import count
from fxteleport.tools.inspection.plan_view import Reading, home


@dataclass(frozen=True)
class NodeChange:
    """An operation that the rewritten graph does differently, with the `Rescale`s before and after it."""

    node: str
    path: str
    before: str
    after: str
    cob: str


@dataclass(frozen=True)
class TensorChange:
    """A scaled parameter or buffer: the smallest and largest value before and after, and its factors."""

    name: str
    shape: tuple[int, ...]
    before: tuple[float, float]
    after: tuple[float, float]
    factors: str


def node_changes(reading: Reading, network: TeleportedModule) -> Iterator[NodeChange]:
    """What differs between the two graphs, in execution order."""
    restored = {
        info(n).restores: module
        for n in network.graph.nodes
        if info(n).restores and isinstance(module := _module(network, n), Rescale)
    }
    for node in network.graph.nodes:
        source = reading.nodes.get(_name(node)) if not info(node).restores else None
        if source is None:
            continue
        module, operation = _module(network, node), reading.operation(source)
        before = _call(operation, [n.name for n in _inputs(source)])
        cobs: list[str] = []
        if isinstance(module, TeleportedActivation):
            operation = f"teleported {operation}"
            cobs.append(cob_words(module.tau))
        elif isinstance(module, OwnEpsilon) and module.tau is not None:
            operation = f"{operation} with an epsilon of its own"
            cobs.append(cob_words(module.tau))
        read = []
        for x in _inputs(node):
            factor = _module(network, x)
            if isinstance(factor, Rescale) and not info(x).restores:
                read.append(_call("Rescale", [_name(x.all_input_nodes[0])]))
                cobs.append(cob_words(factor.factor))
            else:
                read.append(_name(x))
        after = _call(operation, read)
        if source.name in restored:
            after = _call("Rescale", [after])
            cobs.append(cob_words(restored[source.name].factor))
        if before != after:
            yield NodeChange(source.name, home(source), before, after, "; ".join(cobs))


def _module(network: nn.Module, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def _name(node: fx.Node) -> str:
    """The name in the original graph of a node, or of the node whose value it restores."""
    return info(node).captured or info(node).restores or node.name


def _inputs(node: fx.Node) -> list[fx.Node]:
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def _call(operation: str, read: list[str]) -> str:
    """`relu(bn1)`: an operation and the nodes that it reads, parameters left out."""
    return f"{operation}({', '.join(read)})"


def cob_words(tau: Tensor | None) -> str:
    """The number of factors and their range; axes along which they do not vary are left out."""
    if tau is None:
        return "1"
    tau = compress(tau.detach())
    if tau.numel() and bool((tau.abs() == 1).all()):
        return f"{count(tau.numel(), 'sign')}, {int((tau < 0).sum())} negative"
    return described(tau)


def tensor_changes(plan: Plan, cob: ChangeOfBasis, network: nn.Module) -> Iterator[TensorChange]:
    """The tensors that the teleportation scaled, as the model lists them; tied ones once."""
    scales = plan.scales(cob)
    held = dict([*network.named_parameters(), *network.named_buffers()])
    for name, tensor in [*plan.captured.model.named_parameters(), *plan.captured.model.named_buffers()]:
        factor = scales.get(name)
        if factor is not None and name in held and not bool((factor == 1).all()):
            yield TensorChange(name, tuple(tensor.shape), _range(tensor), _range(held[name]), cob_words(factor))


def _range(tensor: Tensor) -> tuple[float, float]:
    low, high = torch.aminmax(tensor.detach()) if tensor.numel() else (torch.zeros(()), torch.zeros(()))
    return float(low), float(high)


def diff_tables(nodes: list[NodeChange], tensors: list[TensorChange], limit: int) -> Iterator[Table | Text]:
    """The changes as two tables: operations, and tensors."""
    yield Text(f"{count(len(nodes), 'operation')} changed, {count(len(tensors), 'tensor')} scaled", style="bold")
    if nodes:
        table = _table("original graph", "rewritten graph")
        for change in nodes[:limit]:
            after = Text(change.after).append(f"  {change.cob}" if change.cob else "", style="dim")
            table.add_row(Text(change.path or change.node, style="bold"), "")
            table.add_row(Text(f"  {change.before}"), after)
        yield table
        yield from _more(len(nodes) - limit, "operation")
    else:
        yield Text("The graph is the original's: only tensors changed.")
    if tensors:
        table = _table("tensor, its range in the original", "range in the rewritten network, factors")
        for tensor in tensors[:limit]:
            shape = "x".join(map(str, tensor.shape)) or "scalar"
            table.add_row(Text(f"{tensor.name}", style="bold").append(f" {shape}", style="default"), "")
            after = Text(_span(tensor.after)).append(f"  {tensor.factors}", style="dim")
            table.add_row(Text(f"  {_span(tensor.before)}"), after)
        yield table
        yield from _more(len(tensors) - limit, "tensor")


def _table(left: str, right: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=False)
    table.add_column(left, overflow="fold", max_width=36)
    table.add_column(right, overflow="fold")
    return table


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"


def _more(n: int, what: str) -> Iterator[Text]:
    if n > 0:
        yield Text(f"... {count(n, 'more ' + what)} (--limit, --json)", style="dim")
