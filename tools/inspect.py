"""`fxteleport inspect`: which neurons share a change of basis, and which are pinned, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from fxteleport.groups import Group, Member
from fxteleport.plan import Plan, plan
from fxteleport.tools import models, options
from fxteleport.tools.console import console, count, progress, write_json
from fxteleport.tools.options import Settings

Limit = Annotated[
    int, typer.Option("--limit", min=0, metavar="N", help="Groups of each kind that are shown; --json has all.")
]
_MEMBERS = 6
_TITLES = {"free": "free", "dependent": "dependent on others", "pinned": "pinned to 1"}


def inspect(
    model: options.Model,
    limit: Limit = 20,
    input_size: options.InputSize = None,
    mode: options.Mode = "full",
    norm_stats: options.NormStats = "fixed",
    json: options.Json = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
) -> None:
    """Show the neuron groups of a network: what can be teleported, and why the rest cannot.

    Example: fxteleport inspect resnet18 --limit 5
    """
    out = console(json)
    settings = Settings(mode, norm_stats)
    wanted = options.request(input_size, redraw=False, seed=seed, device=device, dtype=dtype)
    with progress(total=2) as step:
        step("building")
        loaded = models.load(model, wanted)
        step("planning", 1)
        found = plan(loaded.model, *loaded.args, **loaded.kwargs, mode=mode, norm_stats=norm_stats)
        groups = found.groups
    out.print(tree(loaded, found, groups, limit))
    write_json(json, described(loaded, found, settings))


def tree(loaded: models.Loaded, found: Plan, groups: Sequence[Group], limit: int) -> Tree:
    """The plan as a tree: totals, groups by kind, members."""
    root = Tree(Text(loaded.spec, style="bold"), guide_style="dim")
    root.add(Text(f"{count(loaded.parameters, 'parameter')}, {found.moved:.2%} of them can move"))
    root.add(Text(f"{count(len(found.captured.graph.nodes), 'graph node')}, {len(found.specialized)} specialisations"))
    root.add(Text(f"{count(found.num_free, 'free CoB value')} (mode {found.mode}, norms {found.norm_stats})"))
    if found.opaque:
        opaque = root.add(Text(f"{count(len(found.opaque), 'node')} that no rule knows", style="yellow"))
        _add(opaque, [f"{o.path or o.node}: {o.why}" for o in found.opaque], limit, "node")
    for kind, title in _TITLES.items():
        own = [g for g in groups if g.kind == kind]
        if not own:
            continue
        what = "neuron" if kind == "pinned" else "value"
        total = count(sum(g.size for g in own), what)
        branch = root.add(Text(f"{count(len(own), 'group')} {title}, {total}", style="bold"))
        for group in own[:limit]:
            head = Text(f"#{group.id} ", style="dim").append(count(group.size, what), style=_STYLES[kind])
            leaf = branch.add(head.append(f"  {group.why}" if group.why else "", style="default"))
            _add(leaf, [_member(m) for m in group.members], _MEMBERS, "member")
        _left_out(branch, len(own) - limit, "group")
    return root


_STYLES = {"free": "green", "dependent": "cyan", "pinned": "yellow"}


def described(loaded: models.Loaded, found: Plan, settings: Settings) -> dict[str, Any]:
    """The whole plan as plain data."""
    return {
        "model": loaded.spec,
        "mode": settings.mode,
        "norm_stats": settings.norm_stats,
        "num_free": found.num_free,
        "moved": found.moved,
        "nodes": len(found.captured.graph.nodes),
        "parameters": loaded.parameters,
        "specialized": list(found.specialized),
        "opaque": [asdict(o) for o in found.opaque],
        "groups": [asdict(g) for g in found.groups],
        "seconds": dict(found.seconds),
    }


def _member(member: Member) -> str:
    """`layer1.0.conv1 output 0:64`; parameters by their own name."""
    name = member.node if member.role.startswith("axis") or not member.path else member.path
    return f"{name} {member.role} {member.start}:{member.stop}"


def _add(branch: Tree, lines: Sequence[str], limit: int, what: str) -> None:
    for line in lines[:limit]:
        branch.add(Text(line))
    _left_out(branch, len(lines) - limit, what)


def _left_out(branch: Tree, n: int, what: str) -> None:
    if n > 0:
        branch.add(Text(f"... {count(n, 'more ' + what)} left out", style="dim"))
