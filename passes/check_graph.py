"""What is true of a graph after each pass: the contract between the passes, as a check that can be run.

    check_graph(captured, "capture")                          # after capture
    check_graph(captured, "constrain", constrained)           # after constrain
    check_graph(captured, "rewrite", network=network)         # after rewrite

Each statement below is a function that yields the nodes (or names) that break it, and its docstring is the statement.
A failure is a fault of fxteleport's, or of a user's own rule or edit of a graph; no model can cause one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import fx

from fxteleport.passes.capture.capture import Captured
from fxteleport.passes.capture.proxy import is_proxy
from fxteleport.passes.constrain.constrain import Constrained
from fxteleport.passes.errors import GraphError
from fxteleport.passes.graph.node_info import info, is_described
from fxteleport.passes.graph.ops import leaves_of
from fxteleport.passes.rewrite.any_names import plain
from fxteleport.passes.rewrite.teleported_network import TeleportedModule
from fxteleport.passes.rules.call import fits
from fxteleport.passes.rules.operand import carries
from fxteleport.passes.rules.operands import pairs_of

Broken = Iterator[str]


def check_graph(
    captured: Captured,
    stage: str,
    constrained: Constrained | None = None,
    network: TeleportedModule | None = None,
) -> None:
    """Check what must be true after a pass.

    Args:
        captured: what capture returned.
        stage: "capture", "constrain" or "rewrite".
        constrained: what constrain returned, for its stage.
        network: what rewrite returned, for its stage.

    Raises:
        GraphError: something is not true; the message says what, and of which nodes.
    """
    given: dict[str, tuple[Any, ...]] = {
        "capture": (captured,),
        "constrain": (captured, constrained),
        "rewrite": (captured, network),
    }
    if stage not in given:
        raise ValueError(f"unknown stage '{stage}': choose one of {', '.join(given)}")
    for statement in CONTRACT[stage]:
        broken = list(statement(*given[stage]))
        if broken:
            text = " ".join((statement.__doc__ or "").split())
            raise GraphError(f"after {stage}, this does not hold: {text} Broken by: {', '.join(broken[:5])}")


# -- after capture -------------------------------------------------------------------------------------


def torch_accepts_it(captured: Captured) -> Broken:
    """Each graph is in topological order, with unique names and one output at its end (`fx.Graph.lint`)."""
    for graph in captured.graphs:
        yield from _lint(graph)


def nodes_are_described(captured: Captured) -> Broken:
    """Every node but the output has a record of its facts, without proxies in its value."""
    for node in _nodes(captured):
        if node.op != "output" and (not is_described(node) or any(map(is_proxy, leaves_of(info(node).value)))):
            yield node.name


def targets_exist(captured: Captured) -> Broken:
    """A called module and a tensor that is read are the model's, or capture added them."""
    for node in _nodes(captured):
        name = str(node.target)
        if node.op == "call_module" and name not in captured.modules and name not in captured.added:
            yield node.name
        if node.op == "get_attr" and name not in captured.metas and name not in captured.added:
            yield node.name


def no_node_is_dead(captured: Captured) -> Broken:
    """A node that nothing uses is an input, the output, or has an effect."""
    for node in _nodes(captured):
        if not node.users and node.op not in ("placeholder", "output") and not info(node).has_effect:
            yield node.name


def names_are_of_one_graph(captured: Captured) -> Broken:
    """No node of train mode's graph has the name of one of eval mode's."""
    names = [node.name for node in _nodes(captured)]
    yield from (name for name in set(names) if names.count(name) > 1) if len(set(names)) < len(names) else ()


def first_names_are_first(captured: Captured) -> Broken:
    """The first name of a tensor is its own first name, and has a meta tensor."""
    for name in captured.canonical.values():
        if captured.canonical[name] != name or name not in captured.metas:
            yield name


# -- after constrain -----------------------------------------------------------------------------------


def maps_fit_values(captured: Captured, constrained: Constrained) -> Broken:
    """Every node but the output has a map, which can be the map of its value."""
    for node in _nodes(captured):
        if node.op == "output":
            continue
        if node not in constrained.maps:
            yield node.name
            continue
        for value, cob in pairs_of(info(node).value, _known(constrained.maps[node])):
            if cob.factors and not (carries(value) and fits(cob, value.shape)):
                yield node.name


def maps_of_tensors_fit(captured: Captured, constrained: Constrained) -> Broken:
    """The map of a parameter or a buffer is kept under its first name, and can be its map."""
    for name, cob in constrained.tensors.items():
        if captured.canonical.get(name) != name or (cob.factors and not fits(cob, captured.metas[name].shape)):
            yield name


def symbols_exist(captured: Captured, constrained: Constrained) -> Broken:
    """Maps hold symbols of the system."""
    for name, cob in constrained.tensors.items():
        if any(int(s.max()) >= constrained.system.count or int(s.min()) < 0 for s, _ in cob.factors if s.numel()):
            yield name


def wraps_are_of_calls(captured: Captured, constrained: Constrained) -> Broken:
    """A wrapped node is a call whose input is a positional argument."""
    nodes = set(_nodes(captured))
    for node, wrap in constrained.wraps.items():
        if node not in nodes or not node.op.startswith("call_") or wrap.position >= len(node.args):
            yield node.name


# -- after rewrite -------------------------------------------------------------------------------------


def network_is_accepted(captured: Captured, network: TeleportedModule) -> Broken:
    """The emitted graphs pass `fx.Graph.lint`, over modules and tensors that the network holds."""
    for graph in network.graphs:
        owner, graph.owning_module = graph.owning_module, plain(network)  # type: ignore[assignment]
        yield from _lint(graph)
        graph.owning_module = owner


def inputs_are_the_same(captured: Captured, network: TeleportedModule) -> Broken:
    """The network takes the inputs that the captured graph takes, under their names and in their order."""
    before, after = (
        [n.target for n in graph.nodes if n.op == "placeholder"] for graph in (captured.graph, network.graph)
    )
    if before != after:
        yield from map(str, {*before} ^ {*after} or before)


def parameters_are_the_same(captured: Captured, network: TeleportedModule) -> Broken:
    """Parameters keep their names and shapes."""
    before = {name: p.shape for name, p in captured.model.named_parameters(remove_duplicate=False)}
    after = {name: p.shape for name, p in network.named_parameters(remove_duplicate=False)}
    yield from (name for name, shape in before.items() if after.get(name) != shape)


def nodes_know_their_origin(captured: Captured, network: TeleportedModule) -> Broken:
    """An emitted node does the operation of a captured one, gives its value back, or is a switch that has no value;
    and it keeps no value of the example inputs.
    """
    names = {node.name for node in _nodes(captured)}
    for graph in network.graphs:
        for node in graph.nodes:
            known = info(node)
            if known.value is not None or not names.issuperset({known.captured, known.restores} - {""}):
                yield node.name


CONTRACT: dict[str, tuple[Callable[..., Broken], ...]] = {
    "capture": (
        torch_accepts_it, nodes_are_described, targets_exist, no_node_is_dead, names_are_of_one_graph,
        first_names_are_first,
    ),
    "constrain": (maps_fit_values, maps_of_tensors_fit, symbols_exist, wraps_are_of_calls),
    "rewrite": (network_is_accepted, inputs_are_the_same, parameters_are_the_same, nodes_know_their_origin),
}  # fmt: skip


def _nodes(captured: Captured) -> Iterator[fx.Node]:
    return (node for graph in captured.graphs for node in graph.nodes)


def _lint(graph: fx.Graph) -> Broken:
    nodes = list(graph.nodes)
    try:
        graph.lint()
    except RuntimeError as error:
        yield str(error).splitlines()[0]
    if [node.op for node in nodes].count("output") != 1 or nodes[-1].op != "output":
        yield "its output"


def _known(maps: Any) -> Any:
    """The maps of a node; a parameter's are looked up under its name, not here."""
    return maps if isinstance(maps, (list, dict)) or hasattr(maps, "factors") else None
