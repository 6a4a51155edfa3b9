"""Mutation testing: every factor of every rule, and of the passes, is broken, one at a time; the tests must notice.

    python tests/oracles/mutations.py --target rules constrain solve rewrite verify --record mutants.jsonl
    python tests/oracles/mutations.py --target verify held --record mutants.jsonl --report
    python tests/oracles/mutations.py passes/rules/odd.py --record mutants.jsonl

What a target is (its files, and the tests that are run beside the files' own) is in mutation_targets.json.

A mutant is the source of one file with one node of its syntax tree changed: a constraint dropped, a ratio the other
way round, an axis shifted, a sign or a bias left out (`changes` has them all). A process forked from one that has
collected the tests gives the function its changed code, and runs those that reach it, the file's own before others,
until one fails. Each result is a line of the record; what was noticed is not run again. What no test can notice, since
the rule means the same, is in equivalent_mutants.json with its reason, and left out.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
TARGETS = Path(__file__).with_name("mutation_targets.json")
_SECONDS = 120  # for one test
_OMITTED = frozenset({"annotation", "returns", "decorator_list", "type_comment"})
_PARTS = ("all", "sign", "magnitude")


@dataclass(frozen=True)
class Mutant:
    """One change in one file.

    Attributes:
        file: path from the root.
        scope: the function that is changed.
        line: where.
        operator: which kind of change.
        change: what was there and what is there now.
        source: the file with the change.
    """

    file: str
    scope: str
    line: int
    operator: str
    change: str
    source: str

    @property
    def name(self) -> str:
        """What does not depend on line numbers."""
        return f"{self.file}:{self.scope}: {self.change}"


def expression(text: str, **parts: ast.expr) -> ast.expr:
    """An expression from text, with names replaced by expressions."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return copy.deepcopy(parts.get(node.id, node))

    made: ast.expr = Fill().visit(ast.parse(text, mode="eval")).body
    return made


def _called(node: Any) -> str:
    """The name of the method that is called, if any."""
    is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return node.func.attr if is_method else ""


def changes(node: Any, returns: str | None, identity: str) -> Iterator[tuple[str, ast.AST]]:
    """Every change of one node: the kind of change, and what comes in its place."""
    match node:
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield "dropped", ast.Pass()
        case ast.Return(value=ast.expr() as value) if returns in ("CobMap", "Any"):
            if ast.unparse(value) not in (identity, "IDENTITY", "None"):
                yield "result forgotten", ast.Return(expression(identity))
        case ast.BinOp(op=ast.Div()):
            yield "inverse", expression("b / a", a=node.left, b=node.right)
            yield "inverse", expression("a * b", a=node.left, b=node.right)
            yield "factor missing", node.left
        case ast.BinOp(op=ast.Mult()):
            yield "inverse", expression("a / b", a=node.left, b=node.right)
            yield "factor missing", node.left
            yield "factor missing", node.right
        case ast.BinOp(op=ast.Pow()):
            yield "inverse", expression("a ** -(b)", a=node.left, b=node.right)
            yield "factor missing", node.left
        case ast.BinOp(op=ast.Add()):
            yield "arithmetic", expression("a - b", a=node.left, b=node.right)
        case ast.BinOp(op=ast.Sub()):
            yield "arithmetic", expression("a + b", a=node.left, b=node.right)
        case ast.BinOp(op=ast.FloorDiv() | ast.Mod()):
            yield "arithmetic", node.left
        case ast.Constant(value=bool()):
            yield "flag", ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield "number", ast.Constant(node.value + 1)
            yield "number", expression(str(node.value - 1))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as n)):
            yield "number", expression(str(1 - n))
            yield "number", expression(str(-1 - n))
            yield "number", ast.Constant(n)
        case ast.Constant(value=str()) if node.value in _PARTS:
            for part in _PARTS:
                if part != node.value:
                    yield "part", ast.Constant(part)
        case ast.BoolOp():
            yield "condition", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
            for i in range(len(node.values)):
                rest = [*node.values[:i], *node.values[i + 1 :]]
                yield "condition", ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0]
        case ast.Compare(ops=[ast.Lt() | ast.LtE() | ast.Gt() | ast.GtE() as op]):
            other = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}[type(op)]()
            yield "condition", ast.Compare(node.left, [other], node.comparators)
        case ast.Call() if _called(node) in ("settled", "aligned", "each"):
            yield f"{_called(node)} missing", node.func.value
        case ast.Call() if _called(node) == "constant" and len(node.args) >= 2:
            yield (
                "constraint missing",
                expression(
                    "a.each(lambda s: s[tuple(slice(1 if i in {j % s.ndim for j in over} else None)"
                    " for i in range(s.ndim))])",
                    a=node.args[0],
                    over=node.args[1],
                ),
            )
        case ast.Call() if _called(node) == "require" and len(node.args) == 3:
            yield "factor missing", _with_argument(node, 1, expression(identity))
        case ast.Call() if _called(node) == "wrap":
            for i, given in enumerate(node.args[:2]):
                if ast.unparse(given) != "None":
                    yield "factor missing", _with_argument(node, i, ast.Constant(None))
    test = getattr(node, "test", None)
    if isinstance(node, (ast.If, ast.IfExp)):
        yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), test))
    if isinstance(node, ast.comprehension):
        for i, condition in enumerate(node.ifs):
            negated = ast.UnaryOp(ast.Not(), condition)
            yield "condition", _with(node, ifs=[*node.ifs[:i], negated, *node.ifs[i + 1 :]])


def _with(node: Any, **fields: Any) -> Any:
    twin = copy.copy(node)
    for name, value in fields.items():
        setattr(twin, name, value)
    return twin


def _with_argument(node: ast.Call, at: int, value: ast.expr) -> Any:
    return _with(node, args=[*node.args[:at], value, *node.args[at + 1 :]])


def equivalents() -> dict[str, str]:
    """Names of mutants that mean the same as what they change, with the reason."""
    table: dict[str, list[str]] = json.loads(EQUIVALENT.read_text())
    return {name: why for why, names in table.items() for name in names}


def mutants(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file, also those that mean the same."""
    text = path.read_text()
    tree = ast.parse(text)
    identity = "IDENTITY" if "IDENTITY" in text else "CobMap()"
    sources = {ast.unparse(tree)}
    names: Counter[tuple[str, str]] = Counter()

    def walk(holder: Any, scope: str, returns: str | None) -> Iterator[Mutant]:
        for field, value in list(ast.iter_fields(holder)):
            if field in _OMITTED:
                continue
            for at, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(node, ast.AST) or isinstance(node, (ast.arguments, ast.JoinedStr, ast.Assert)):
                    continue
                if isinstance(node, ast.keyword) and node.arg == "strict":  # an assertion, too
                    continue
                small = isinstance(node, (ast.Constant, ast.UnaryOp)) and isinstance(holder, (ast.expr, ast.slice))
                for operator, new in changes(node, returns, identity) if returns is not None else ():
                    before = _line(holder if small else node)
                    _put(holder, field, at, new)
                    source, after = ast.unparse(tree), _line(holder if small else new)
                    _put(holder, field, at, node)
                    if source not in sources:
                        sources.add(source)
                        change = f"{before} -> {after}"
                        names[scope, change] += 1
                        change += f" ({names[scope, change]})" if names[scope, change] > 1 else ""
                        line = getattr(node, "lineno", getattr(holder, "lineno", 0))
                        yield Mutant(str(path.relative_to(ROOT)), scope, line, operator, change, source)
                inside, kind = scope, returns
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    inside = f"{scope}.{node.name}".lstrip(".")
                    kind = ast.unparse(node.returns) if isinstance(node, ast.FunctionDef) and node.returns else returns
                if not (isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)):
                    yield from walk(node, inside, kind)

    yield from walk(tree, "", None)


def _put(holder: Any, field: str, at: int | None, node: Any) -> None:
    if at is None:
        setattr(holder, field, node)
    else:
        getattr(holder, field)[at] = node


def _line(node: Any) -> str:
    """A node in one line: of a block its first."""
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    return " ".join(ast.unparse(node).split())


# -- running ----------------------------------------------------------------------------------------------------------


def living(file: str) -> Any:
    """The module of a file."""
    path = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return importlib.import_module(path if path.partition(".")[0] == "fxteleport" else f"fxteleport.{path}")


def install(file: str, source: str, scope: str) -> None:
    """Give the living function the code that a source has for it."""
    code: Any = compile(source, file, "exec")
    owner = living(file)
    for name in scope.split("."):
        code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)
        owner = vars(owner)[name]
        if not isinstance(owner, type):
            break
    for inside in ("fget", "func", "__func__", "__wrapped__"):  # property, cached_property, staticmethod, decorators
        owner = getattr(owner, inside, owner)
    owner.__code__ = code


def watch(file: str, reached: set[tuple[str, str]]) -> None:
    """Every function of a file notes that it was called."""
    tree = ast.parse((ROOT / file).read_text())
    scopes = []
    for node in tree.body:
        for inside in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(inside, ast.FunctionDef):
                scopes.append(inside.name if inside is node else f"{node.name}.{inside.name}")  # type: ignore[attr-defined]
                inside.body.insert(0, ast.parse(f"_reached.add({(file, scopes[-1])!r})").body[0])
    living(file)._reached = reached
    source = ast.unparse(ast.fix_missing_locations(tree))
    for scope in scopes:
        install(file, source, scope)


class Runner:
    """A pytest plugin that runs, for each mutant, the collected tests that reach its function, until one fails."""

    def __init__(self, found: list[Mutant], record: Path, seconds: float = float("inf")) -> None:
        self.found, self.record, self.end = found, record, time.monotonic() + seconds
        self.kills: Counter[str] = Counter()

    @staticmethod
    def pytest_configure() -> None:
        """The first failure of a drawn example is enough."""
        settings.register_profile("mutants", settings.get_profile("fxteleport"), phases=[Phase.generate])
        settings.load_profile("mutants")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of running the tests; first they run unbroken, which shows what they reach."""
        reached: set[tuple[str, str]] = set()
        for file in {m.file for m in self.found}:
            watch(file, reached)
        reach: dict[pytest.Item, frozenset[tuple[str, str]]] = {}
        for item in session.items:
            reached.clear()
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            reach[item] = frozenset(reached)
        if session.testsfailed:
            return True
        for mutant in self.found:
            if time.monotonic() > self.end:
                break
            start = time.perf_counter()
            items = [i for i in session.items if (mutant.file, _outermost(mutant)) in reach[i]]
            items.sort(key=lambda item: (item.path != own_tests(mutant.file), -self.kills[item.nodeid]))
            by = self.killer(mutant, session, items)
            self.kills[by] += 1
            seconds = round(time.perf_counter() - start, 1)
            result = {"name": mutant.name, "operator": mutant.operator, "by": by, "seconds": seconds}
            with self.record.open("a") as out:
                print(json.dumps(result), file=out)
            if not by:
                print(f"SURVIVED {mutant.line}: {mutant.operator}: {mutant.name}", file=sys.stderr)
        return True

    @staticmethod
    def killer(mutant: Mutant, session: pytest.Session, items: list[pytest.Item]) -> str:
        """The first test that fails with a mutant in place; "" if none does."""
        read, write = os.pipe()
        child = os.fork()
        if not child:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            install(mutant.file, mutant.source, mutant.scope)
            for item in items:
                signal.alarm(_SECONDS)
                os.write(write, f"{item.nodeid}\n".encode())
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if session.testsfailed:
                    os._exit(1)
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            names = pipe.read().splitlines()
        return names[-1] if os.waitpid(child, 0)[1] else ""


def _outermost(mutant: Mutant) -> str:
    """The function, or the class's method, whose code is replaced."""
    names = mutant.scope.split(".")
    return ".".join(names[: 1 + isinstance(vars(living(mutant.file))[names[0]], type)])


def own_tests(file: str) -> Path:
    """The tests that mirror a file."""
    path = Path(file)
    folder = path.parent.relative_to("fxteleport") if path.parts[0] == "fxteleport" else path.parent
    name = path.stem
    if name == "__init__":  # of a package
        name, folder = ("registry", folder) if folder.name == "rules" else (folder.name, folder.parent)
    return ROOT / "tests" / folder / f"test_{name}.py"


def target(name: str) -> tuple[list[str], list[str]]:
    """The files of a target, and the tests beside their own; patterns that match nothing are left out."""
    table: dict[str, dict[str, list[str]]] = json.loads(TARGETS.read_text())
    files = [str(p) for pattern in table[name]["files"] for p in sorted(ROOT.glob(pattern)) if p.name != "__init__.py"]
    tests = [
        str(p) + "".join(f"::{test}" for test in [pattern.partition("::")[2]] if test)
        for pattern in table[name]["tests"]
        for p in sorted(ROOT.glob(pattern.partition("::")[0]))
    ]
    return files, tests


def report(files: list[str], lines: list[dict[str, Any]]) -> str:
    """How many mutants of each file were noticed by what, and the names of those that were not."""
    last = {line["name"]: line["by"] for line in lines if not line["by"]}
    last |= {line["name"]: line["by"] for line in lines if line["by"]}
    head = "| file | mutants | noticed by own tests | by others | mean the same | not noticed | not run |"
    rows, unnoticed = [head, "|---|---:|---:|---:|---:|---:|---:|"], []
    for file in files:
        names = [m.name for m in mutants(Path(file).resolve())]
        same = [n for n in names if n in equivalents()]
        known = {n: last[n] for n in names if n in last and n not in same}
        own = str(own_tests(str(Path(file).resolve().relative_to(ROOT))).relative_to(ROOT))
        by_own = sum(by.startswith(own) for by in known.values() if by)
        by_other = sum(bool(by) for by in known.values()) - by_own
        missed = [n for n, by in known.items() if not by]
        unnoticed += missed
        counts = [len(names), by_own, by_other, len(same), len(missed), len(names) - len(known) - len(same)]
        rows.append(f"| `{Path(file).resolve().relative_to(ROOT)}` | " + " | ".join(map(str, counts)) + " |")
    return "\n".join([*rows, "", *(f"not noticed: {name}" for name in unnoticed)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="files under the root whose mutants are run")
    parser.add_argument("--target", nargs="*", default=[], help="or all files of these targets, with their tests")
    parser.add_argument("--record", default="mutants.jsonl", help="where results go, one line each")
    parser.add_argument("--only", default="", help="only mutants whose name contains this")
    parser.add_argument("--wider", nargs="*", default=[], help="more tests, after the file's own")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no new mutant after so long")
    parser.add_argument("--report", action="store_true", help="tell what the record says, and run nothing")
    parser.add_argument("--list", action="store_true", help="list them, and run nothing")
    given = parser.parse_args()
    for name in given.target:
        files, tests = target(name)
        given.files += files
        given.wider += tests
    record = Path(given.record)
    lines = record.read_text().splitlines() if record.exists() else []
    if given.report:
        print(report(given.files, [json.loads(line) for line in lines]))
        return
    done = {line["name"] for line in map(json.loads, lines) if line["by"]} | equivalents().keys()
    found = [m for f in given.files for m in mutants(Path(f).resolve()) if given.only in m.name and m.name not in done]
    if given.list:
        print(*(f"{m.line}: {m.operator}: {m.name}" for m in found), sep="\n")
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: a fork leaves its threads behind, and waits for them
    own = [str(own_tests(m.file)) for m in found if own_tests(m.file).exists()]
    tests = dict.fromkeys([*own, *given.wider])
    sys.exit(pytest.main(["-s", "-W", "ignore", *tests], plugins=[Runner(found, record, given.seconds)]))


if __name__ == "__main__":
    main()
