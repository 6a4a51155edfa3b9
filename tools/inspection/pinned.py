"""Why neurons are pinned: the reasons, largest first, and the settings that would free them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.text import Text

from fxteleport.plan.plan import Plan
from fxteleport.tools.console import count
from fxteleport.tools.inspection.plan_view import Reading
from fxteleport.tools.inspection.tree_text import Hanging, percent
from fxteleport.tools.models.request import Loaded
from fxteleport.tools.options.common import Settings


@dataclass(frozen=True)
class Reason:
    """A reason with the neurons that it pins: in all, and at each node as (node, module path, neurons)."""

    why: str
    neurons: int
    nodes: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Setting:
    """Another plan of the same network."""

    mode: str
    norm_stats: str
    num_free: int
    moved: float


def reasons(reading: Reading) -> list[Reason]:
    """Why neurons are pinned, largest first."""
    held: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for group in reading.groups:
        if group.kind != "pinned":
            continue
        node, colon, why = group.why.partition(": ")
        where = node if colon and (node in reading.nodes or " " not in node) else ""
        held[why if where else group.why][where] += group.size
    result = []
    for why, nodes in held.items():
        ordered = sorted(nodes.items(), key=lambda x: (-x[1], x[0]))
        result.append(Reason(why, sum(nodes.values()), tuple((n, reading.place(n), size) for n, size in ordered)))
    return sorted(result, key=lambda r: (-r.neurons, r.why))


def one_sided(plan: Plan) -> dict[str, tuple[int, list[str]]]:
    """Free values with a restriction: the restriction in words -> their number, and why."""
    system, allows = plan.constrained.system, plan.solution.allows
    sides = (("positive", 1, system.positive), ("1 or -1", 2, system.unit))
    return {
        words: (int((allows == flag).sum()), list(dict.fromkeys(b.origin.why for b in batches)))
        for words, flag, batches in sides
        if (allows == flag).any()
    }


def other_settings(current: Plan, loaded: Loaded) -> list[Setting]:
    """The plan itself, and plans with other settings that would free more values."""
    modes = ["full"] if current.mode == "full" else ["weights", "full"]
    stats = {"fixed": ["fixed", "rescaled", "wrapped"], "rescaled": ["rescaled"], "wrapped": ["wrapped"]}
    pairs = [(m, s) for m in modes for s in stats[current.norm_stats] if (m, s) != ("weights", "wrapped")]
    rows = []
    for mode, norm_stats in pairs:
        same = (mode, norm_stats) == (current.mode, current.norm_stats)
        norms = current.norms if mode == "weights" else "exact"
        other = current if same else Settings(mode=mode, norm_stats=norm_stats, norms=norms).plan(loaded)
        if same or other.num_free > current.num_free:
            rows.append(Setting(mode, norm_stats, other.num_free, other.moved))
    return rows


def pinned_lines(reading: Reading, why: Sequence[Reason], settings: Sequence[Setting], limit: int) -> Iterator[Hanging]:
    """The report."""
    plan = reading.plan
    total = sum(r.neurons for r in why)
    yield Hanging(Text(f"{count(total, 'neuron')} pinned to 1, {count(plan.num_free, 'free value')}", style="bold"))
    for reason in why[:limit]:
        share = percent(reason.neurons, total)
        yield Hanging(Text(f"{reason.neurons:>9,}  ", style="yellow").append(f"{reason.why}", style="default"), 0, 11)
        at = [f"{_where(n, path)} {size:,}" for n, path, size in reason.nodes if n]
        more = f" and {len(at) - 3} more" if len(at) > 3 else ""
        where = f"at {count(len(at), 'node')}: {', '.join(at[:3])}{more}" if at else "nowhere in particular"
        yield Hanging(Text(f"{share:>9}  {where}", style="dim"), 0, 11)
    if len(why) > limit:
        yield Hanging(Text(f"... {count(len(why) - limit, 'more reason')} (--limit, --json)", style="dim"))
    for words, (number, because) in one_sided(plan).items():
        yield Hanging(Text(f"{number:>9,}  free values must be {words}: {'; '.join(because[:3])}"), 0, 11)
    if plan.opaque:
        yield Hanging(Text(f"No rule knows {count(len(plan.opaque), 'node')}:", style="bold"))
        for opaque in plan.opaque[:limit]:
            yield Hanging(Text(f"{opaque.path or opaque.node}: {opaque.why}"), 2)
        if len(plan.opaque) > limit:
            yield Hanging(Text(f"... {count(len(plan.opaque) - limit, 'more node')} (--limit, --json)", style="dim"))
    if len(settings) > 1:
        yield Hanging(Text("With other settings:", style="bold"))
        for other in settings:
            name = f"--mode {other.mode} --norm-stats {other.norm_stats}"
            note = " (exact in eval mode only)" if other.norm_stats == "rescaled" else ""
            this = " (this plan)" if (other.mode, other.norm_stats) == (plan.mode, plan.norm_stats) else ""
            yield Hanging(Text(f"{other.num_free:>9,}  free values with {name}{note}{this}"), 0, 11)


def _where(node: str, path: str) -> str:
    return path if path and path.replace(".", "_") == node else node
