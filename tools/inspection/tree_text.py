"""The module tree of `inspect`: every module's groups, what they scale, and what is wrapped, in 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Lines
from rich.text import Text
from rich.tree import Tree

from fxteleport.explain.groups import Group
from fxteleport.explain.scalings import Use
from fxteleport.tools.console import count
from fxteleport.tools.inspection.module_rows import Row
from fxteleport.tools.inspection.phrasing import by_run, full_words, scaling_words, short_reason, size_words

STYLES = {"free": "green", "dependent": "cyan", "pinned": "yellow"}
_SHOWN = 3
_PERIOD = 4  # the longest repeating run of siblings: attention in windows and in shifted windows, say


class Hanging:
    """A line whose continuations are indented further than itself; no spaces at its ends."""

    def __init__(self, text: Text, indent: int = 0, hang: int = 4) -> None:
        self.text, self.indent, self.hang = text, indent, hang

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first, *rest = self.text.wrap(console, max(20, options.max_width - self.indent)) or [Text()]
        yield self._placed(first, self.indent)
        if rest:  # what is left is wrapped anew, since it has less room
            left = self.text[len(first.plain.rstrip()) :]
            left = left[len(left.plain) - len(left.plain.lstrip()) :]
            for line in left.wrap(console, max(20, options.max_width - self.indent - self.hang)):
                yield self._placed(line, self.indent + self.hang)

    def _placed(self, line: Text, indent: int) -> Text:
        line.rstrip()
        return Text(" " * indent).append_text(line)


class TreeView:
    """Rows as a rich tree. Siblings that look alike are shown once, and a group is introduced at its first mention."""

    def __init__(self, groups: Sequence[Group], every: bool = False, depth: int | None = None) -> None:
        self.groups, self.every, self.depth = groups, every, depth
        self.introduced: set[int] = set()
        self.reasons: dict[str, int] = {}
        self.folded = False

    def tree(self, row: Row, title: RenderableType) -> Tree:
        """The tree under a row."""
        root = Tree(Lines(title, *self._body(row)), guide_style="dim")
        self._grow(root, row, 1)
        return root

    def _grow(self, branch: Tree, row: Row, level: int) -> None:
        for likes, run in _runs(row.parts, self.groups, self.every):
            if not likes:
                self._add(branch, run[0], level)
                continue
            self.folded = True
            names = ", ".join(r.name for r in run) if len(run) < 4 else f"{run[0].name} to {run[-1].name}"
            how = "in turn like" if len(likes) > 1 else "like" if len(run) == 1 else "each like"
            kinds = " or ".join(dict.fromkeys(r.kind for r in run[: len(likes)]))
            text = _head(names, kinds).append(f": {how} {', '.join(r.name for r in likes)}")
            branch.add(Hanging(text.append(f"; {count(sum(r.values for r in run), 'free value')}")))

    def _add(self, branch: Tree, row: Row, level: int) -> None:
        head = _head(row.name, row.kind)
        if row.into or row.out or not row.parts:
            head.append_text(self._flow(row))
        else:
            head.append(f": {totals(row)}")
        if row.parts and self.depth is not None and level >= self.depth:
            self.folded = True
            branch.add(Hanging(head.append(f" ({count(sum(1 for _ in row.walk()) - 1, 'module')} folded)")))
            return
        self._grow(branch.add(Lines(Hanging(head), *self._body(row))), row, level + 1)

    def _flow(self, row: Row) -> Text:
        """`  #9 -> #31 (64 pinned: ...)`."""
        same = [(u.group, u.exponent) for u in row.into] == [(u.group, u.exponent) for u in row.out]
        text = Text("  ")
        if not same:
            text.append_text(self._names(row.into)).append(" -> ")
        return text.append_text(self._names(row.out))

    def _names(self, uses: Sequence[Use]) -> Text:
        """Groups by their numbers, with size and kind at the first mention."""
        text, named = Text(), set[str]()
        runs = by_run(uses)
        for run in runs:
            name = " * ".join(f"#{u.group}^{u.exponent}" if u.exponent != 1 else f"#{u.group}" for u in run)
            if name in named:
                continue
            if len(named) == _SHOWN:
                more = len({u.group for u in uses} - {u.group for r in runs[: runs.index(run)] for u in r})
                return text.append(f" and {more} more")
            text.append(", " if named else "")
            named.add(name)
            for i, use in enumerate(run):
                group = self.groups[use.group]
                text.append(" * " if i else "").append(name.split(" * ")[i], style=STYLES[group.kind])
                if use.group not in self.introduced:
                    self.introduced.add(use.group)
                    text.append(f" ({self._introduction(group)})")
        return text if named else Text("1")

    def _introduction(self, group: Group) -> str:
        """Size and kind, and the reason; a reason that was given before is named by its group."""
        if group.kind != "pinned":
            return full_words(group)
        first = self.reasons.setdefault(short_reason(group.why), group.id)
        return full_words(group) if first == group.id else f"{size_words(group)} like #{first}"

    def _body(self, row: Row) -> list[Hanging]:
        """The lines below a module's head: parameters, then what its nodes do."""
        scaled: dict[str, list[str]] = {}
        for name, uses in row.tensors:
            scaled.setdefault(scaling_words(uses, self.groups), []).append(name)
        said = [f"{', '.join(names)} {words}" for words, names in scaled.items()]
        for note in row.notes:
            alone = len({n.node for n in row.notes}) == 1 and not row.parts
            said.append(note.text if alone else f"{note.node}: {note.text}")
        return [Hanging(Text(line, style="dim"), 4) for line in said]


def _head(name: str, kind: str) -> Text:
    return Text().append(name, style="bold").append(f" {kind}")


def totals(row: Row) -> str:
    """`73,984 parameters, 100% can move, 64 free values`."""
    share = [f"{percent(row.moved, row.parameters)} can move"] if row.parameters else []
    return ", ".join([count(row.parameters, "parameter"), *share, count(row.values, "free value")])


def percent(part: int, whole: int) -> str:
    """A share in percent; 100% and 0% are shown only where they are exact."""
    text = f"{100 * part / whole:.2f}".rstrip("0").rstrip(".")
    return f"{'>99.99' if text == '100' and part < whole else '<0.01' if text == '0' and part else text}%"


def _runs(rows: Sequence[Row], groups: Sequence[Group], every: bool) -> list[tuple[Sequence[Row], Sequence[Row]]]:
    """Siblings in order: ((), [row]), or (earlier rows, later rows that repeat them)."""
    looks = [None if every or not row.parts else look(row, groups) for row in rows]
    runs: list[tuple[Sequence[Row], Sequence[Row]]] = []
    at = shown = 0  # rows[told:at] are those since the last that was not told in full
    while at < len(rows):
        for period in range(1, min(_PERIOD, at - shown) + 1):
            end = at
            while end < len(rows) and looks[end] is not None and looks[end] == looks[end - period]:
                end += 1
            if end - at >= period:
                runs.append((rows[at - period : at], rows[at:end]))
                at = shown = end
                break
        else:
            runs.append(((), rows[at : at + 1]))
            at += 1
    return runs


def look(row: Row, groups: Sequence[Group]) -> tuple[Any, ...]:
    """The key by which two modules look alike: the same parts with the same notes, whatever their sizes and groups."""

    def kinds(uses: Sequence[Use]) -> frozenset[tuple[Any, ...]]:
        return frozenset((u.axes, u.exponent, groups[u.group].kind) for u in uses)

    tensors = tuple((name, kinds(uses)) for name, uses in row.tensors)
    notes = tuple((n.operation, n.text.split("#")[0]) for n in row.notes)
    parts = tuple((p.name, look(p, groups)) for p in row.parts)
    return row.kind, kinds(row.into), kinds(row.out), tensors, notes, parts
