"""Look up names of the command line: a group by its number, a node by any of its names."""

from __future__ import annotations

from itertools import chain

from torch import fx

from fxteleport.explain.groups import Group
from fxteleport.models.zoo import suggestion
from fxteleport.passes.errors import InputError
from fxteleport.tools.inspection.plan_view import Reading, home
from fxteleport.tools.options.inspect import Look


def require_names(reading: Reading, look: Look) -> None:
    """Raise InputError unless the group and the node that are asked for exist."""
    if look.group is not None:
        find_group(reading, look.group)
    if look.node is not None:
        find_node(reading, look.node)


def find_group(reading: Reading, text: str) -> Group:
    """A group by its number, with or without the #.

    Raises:
        InputError: there is no such group.
    """
    last = len(reading.groups) - 1
    number = text.strip().removeprefix("#")
    if last < 0:
        raise InputError(f"--group {text}: the network has no neuron groups")
    if not number.isdecimal() or int(number) > last:
        raise InputError(f"--group takes the number of a group, 0 to {last}; got '{text}' (--node takes names)")
    return reading.groups[int(number)]


def find_node(reading: Reading, name: str) -> fx.Node | str:
    """A node by its own name, its module's path or its parameter's name; a path of a module that holds several.

    Raises:
        InputError: there is no such node, module or parameter.
    """
    nodes: dict[str, fx.Node] = reading.nodes
    if name in nodes:
        return nodes[name]
    reads = [n for n in nodes.values() if n.op in ("call_module", "get_attr") and n.target == name]
    if reads:
        return reads[0]
    inside = [n for n in nodes.values() if n.op != "get_attr" and f"{home(n)}.".startswith(f"{name}.")]
    if len(inside) == 1:
        return inside[0]
    modules = dict(reading.plan.captured.model.named_modules(remove_duplicate=False))
    if inside and name in modules:
        return name
    owner = name.rpartition(".")[0]
    if name in reading.plan.captured.metas and any(home(n) == owner for n in nodes.values()):
        return find_node(reading, owner)
    if name in modules:
        raise InputError(f"--node {name}: the network's graph does not use this module")
    raise InputError(f"the graph has no node '{name}'{suggestion(name, chain(nodes, modules))}")
