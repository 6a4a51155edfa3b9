"""One group, or one node, in full: its members, the operations that join them, the tensors that they scale."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain

from rich.text import Text
from torch import Tensor, fx

from fxteleport.explain.groups import Group, Member
from fxteleport.explain.joins import TOGETHER, Link
from fxteleport.explain.scalings import Use
from fxteleport.passes.graph.node_info import info
from fxteleport.tools.console import count
from fxteleport.tools.inspection.phrasing import allowed_words, axis_words, scaling_words, tied_words
from fxteleport.tools.inspection.plan_view import Reading, home
from fxteleport.tools.inspection.tree_text import STYLES, Hanging

Lines = Iterator[Hanging]


def group_lines(reading: Reading, group: Group, limit: int) -> Lines:
    """Everything about a group."""
    yield Hanging(group_head(group))
    plan = reading.plan
    yield from _section("Members, the neurons that were made with these values:")
    members = [f"{i}  {member_words(reading, m)}" for i, m in enumerate(group.members)]
    yield from _list(members, limit)
    if len(group.members) > 1:
        yield from _section("Joined by:")
        links = plan.links[group.id]
        yield from _list(list(chain.from_iterable(_link(reading, group, x) for x in links)), 2 * limit)
        if not links:
            pinned = "the same operation pins each of them"
            alone = f"nothing: {pinned if group.kind == 'pinned' else 'they were made together'}"
            yield Hanging(Text(alone), 2)
    ties = [t for t in plan.ties if group.id in t.groups]
    if ties:
        yield from _section("Tied to other groups by:")
        yield from _list([f"{_node(reading, t.node)}: {t.why} ({tied_words(t)})" for t in ties], limit)
    names = [name for name, uses in reading.tensors.items() if any(u.group == group.id for u in uses)]
    if group.kind != "pinned":
        yield from _section(f"Scales {count(len(names), 'tensor')}:" if names else "Scales no tensor.")
        yield from _list([_tensor(reading, name, group) for name in names], limit)
    carriers = [(n, u) for n in reading.nodes.values() for u in reading.uses(n) if u.group == group.id]
    wrapped = [n.name for n in dict.fromkeys(n for n, _ in carriers) if n.name in reading.wrapped]
    if wrapped:
        yield from _section("Wrapped operations:")
        yield from _list([f"{_node(reading, n)}: {reading.wrapped[n]}" for n in wrapped], limit)
    yield from _section(f"Carried by {count(len({n for n, _ in carriers}), 'node')}:")
    yield from _list([f"{_node(reading, n.name)}, {_channels(u)}" for n, u in carriers], limit)
    used = [g for g in reading.groups if g.kind == "dependent" and f"#{group.id} " in f"{g.why} ".replace(",", " ")]
    if used:
        yield from _section("Other groups depend on it:")
        yield from _list([f"#{g.id} = {g.why}" for g in used], limit)


def group_head(group: Group) -> Text:
    """`#9: 64 free values, any number but 0`."""
    head = Text(f"#{group.id}", style=STYLES[group.kind]).append(": ", style="default")
    if group.kind == "pinned":
        return head.append(f"{count(group.size, 'neuron')} pinned to 1, because {group.why}", style="default")
    if group.kind == "dependent":
        return head.append(f"{count(group.size, 'dependent value')}: {group.why}", style="default")
    return head.append(f"{count(group.size, 'free value')}, each {allowed_words(group)}", style="default")


def node_lines(reading: Reading, node: fx.Node, limit: int) -> Lines:
    """Everything about a node, and the groups in its value."""
    plan = reading.plan
    yield Hanging(Text(node.name, style="bold").append(f": {reading.operation(node)}", style="default"))
    rule = plan.constrained.rules.get(node.name)
    opaque = next((o.why for o in plan.opaque if o.node == node.name), "")
    more = len(node.all_input_nodes) - limit
    facts = [
        ("module", home(node) or "the model itself"),
        ("rule", f"none knows it, so that all around it is pinned: {opaque}" if opaque else rule or "none needed"),
        ("value", shape_words(node)),
        *(("reads", f"{x.name}: {scaling(reading, reading.uses(x))}") for x in node.all_input_nodes[:limit]),
        *([("", f"... {count(more, 'more input')} (--limit, --json)")] if more > 0 else []),
        ("gives", scaling(reading, reading.uses(node))),
        *(("scales", f"{name} {scaling(reading, reading.tensors[name])}") for name in own_tensors(reading, node)),
        *([("wrapped", re.sub("^wrapped:? ", "", reading.wrapped[node.name]))] if node.name in reading.wrapped else []),
        *(("does", text) for text in reading.doings.get(node.name, ())),
    ]  # fmt: skip
    for name, value in facts:
        yield Hanging(Text(f"{name:<9}").append(value), 2, 9)
    numbers = list(dict.fromkeys(u.group for u in reading.uses(node)))
    for number in numbers[:limit]:
        yield Hanging(Text())
        if len(numbers) == 1:
            yield from group_lines(reading, reading.groups[number], limit)
        else:
            yield from short_lines(reading, reading.groups[number], limit)
    if len(numbers) > limit:
        yield Hanging(Text(f"... {count(len(numbers) - limit, 'more group')} (--limit, --json)", style="dim"))


def short_lines(reading: Reading, group: Group, limit: int) -> Lines:
    """A group's head and members."""
    yield Hanging(group_head(group))
    yield from _list([member_words(reading, m) for m in group.members], min(limit, 3))


def scaling(reading: Reading, uses: Sequence[Use]) -> str:
    """As `scaling_words`, with the pinned groups if there are no others."""
    words = scaling_words(uses, reading.groups, 8)
    pinned = [f"#{u.group}" for u in uses if reading.groups[u.group].kind == "pinned"]
    if words == "not scaled" and pinned:
        return f"pinned ({', '.join(dict.fromkeys(pinned))})" if len(pinned) < 9 else f"pinned ({len(pinned)} groups)"
    return "no CoB: 1" if words == "not scaled" else words


def own_tensors(reading: Reading, node: fx.Node) -> list[str]:
    """The parameters and buffers that a module node holds."""
    if node.op != "call_module":
        return [str(node.target)] if node.op == "get_attr" and node.target in reading.tensors else []
    trained = dict(reading.plan.captured.model.named_parameters(remove_duplicate=False))
    return [
        name
        for name in reading.tensors
        if name.startswith(f"{home(node)}." if home(node) else "") and (name in trained or reading.tensors[name])
    ]


def shape_words(node: fx.Node) -> str:
    """`float32 [2, 64, 56, 56]`."""
    value = info(node).value
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def member_words(reading: Reading, member: Member) -> str:
    """`layer1.0.conv1 (layer1_0_conv1), axis 1, channels 0:64`; parameters by their own name."""
    node = reading.nodes.get(member.node)
    if member.node in reading.plan.captured.metas:
        axis = f", {member.role}" if member.role != "scalar" else ""
        return f"{member.node}{axis}, {_run(member.start, member.stop)}"
    role = "" if member.role == "output" else f", {member.role}"
    if node is None:
        return f"{member.node}{role}, {_run(member.start, member.stop)}"
    axes = sorted({u.axes for u in reading.uses(node)})
    axis = f", {axis_words(axes[0])}" if len(axes) == 1 else ""
    return f"{_node(reading, member.node)}{role}{axis}, {_run(member.start, member.stop)}"


def _run(start: int, stop: int) -> str:
    return f"channels {start}:{stop}" if stop - start > 1 else f"channel {start}"


def _node(reading: Reading, name: str) -> str:
    """A node with its operation and module: `iadd (iadd in layer1.0)`, `layer1.0.conv1 Conv2d`."""
    node = reading.nodes.get(name)
    if node is None:
        return name
    operation = reading.operation(node)
    if node.op == "call_module":
        own_name = f" ({name})" if reading.calls[str(node.target)] > 1 else ""
        return f"{node.target} {operation}{own_name}"
    inside = f" in {home(node)}" if home(node) else ""
    return f"{name} ({operation}{inside})"


def _short(reading: Reading, member: Member) -> str:
    node = reading.nodes.get(member.node)
    once = node is not None and reading.calls[str(node.target)] == 1
    return str(node.target) if once and node is not None else member.node


def _channels(use: Use) -> str:
    inverse = "" if use.exponent == 1 else ", inverse" if use.exponent == -1 else f", to the power {use.exponent}"
    return f"{axis_words(use.axes)}, {use.start}:{use.stop}{inverse}" if use.axes else f"all of it{inverse}"


def _link(reading: Reading, group: Group, link: Link) -> Iterator[str]:
    a, b = group.members[link.a], group.members[link.b]
    why = f"{_node(reading, link.node)}: {link.why}" if link.node else TOGETHER
    yield f"{link.a} - {link.b}  {why}"
    yield f"       {_short(reading, a)} - {_short(reading, b)}"


def _tensor(reading: Reading, name: str, group: Group) -> str:
    own = [u for u in reading.tensors[name] if u.group == group.id]
    shape = "x".join(map(str, reading.plan.captured.metas[name].shape)) or "scalar"
    return f"{name} [{shape}] {scaling_words(own, reading.groups)}"


def _section(title: str) -> Lines:
    yield Hanging(Text(title, style="bold"))


def _list(lines: Sequence[str], limit: int) -> Lines:
    for line in lines[:limit]:
        indent = len(line) - len(line.lstrip())
        yield Hanging(Text(line.lstrip()), 2 + indent)
    if len(lines) > limit:
        yield Hanging(Text(f"... {count(len(lines) - limit, 'more line')} (--limit, --json)", style="dim"), 2)
