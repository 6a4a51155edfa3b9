"""A rule or a pass that is broken in one place fails its tests (docs/reliability.md has the table of all)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import ROOT, TARGETS, equivalents, living, mutants, own_tests, report, target


def test_every_factor_has_a_mutant() -> None:
    changes = {m.name.partition(": ")[2] for m in mutants(ROOT / "passes/rules/weighted.py") if m.scope == "linear"}
    assert {
        "call.require(bias, out, 'bias * out') -> pass",  # a missing bias
        "on_axis(out, 0, 2) / on_axis(cob, 1, 2) -> on_axis(cob, 1, 2) / on_axis(out, 0, 2)",  # an inverse
        "on_axis(out, 0, 2) -> on_axis(out, 1, 2)",  # a wrong axis
    } <= changes
    changes = {m.name.partition(": ")[2] for m in mutants(ROOT / "passes/rules/homogeneous.py")}
    assert "call.wrap(before, after, 'sign') -> pass" in changes  # a missing sign


def test_what_is_called_equivalent_is_there() -> None:
    files = {name.partition(":")[0] for name in equivalents()}
    assert equivalents().keys() <= {m.name for file in files for m in mutants(ROOT / file)}


@pytest.mark.parametrize(
    ("rule", "least"), [("odd.py:odd:", 6), pytest.param("weighted.py:linear:", 40, marks=pytest.mark.slow)]
)
def test_no_mutant_survives(rule: str, least: int, tmp_path: Path) -> None:
    file = f"passes/rules/{rule.partition(':')[0]}"
    record = tmp_path / "mutants.jsonl"
    command = [sys.executable, "tests/oracles/mutations.py", file, "--only", rule, "--record", str(record)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    results = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(results) >= least
    assert [r["name"] for r in results if not r["by"]] == []


@pytest.mark.parametrize("name", json.loads(TARGETS.read_text()))
def test_every_target_is_there(name: str) -> None:
    files, tests = target(name)
    assert files and tests
    assert any(True for file in files for _ in mutants(Path(file)))
    for file in files:
        path = str(Path(file).relative_to(ROOT))
        assert Path(living(path).__file__).read_text() == Path(file).read_text()  # the installed one, where one is
    assert all(Path(test.partition("::")[0]).exists() for test in tests)


def test_own_tests() -> None:
    expected = {
        "passes/rules/odd.py": "passes/rules/test_odd.py",
        "passes/rules/registry.py": "passes/rules/test_registry.py",
        "fxteleport/plan/model_snapshot.py": "plan/test_model_snapshot.py",
        "fxteleport/verify/__init__.py": "test_verify.py",
        "fxteleport/verify/report.py": "verify/test_report.py",
        "passes/solve/solve.py": "passes/solve/test_solve.py",
    }
    assert {file: str(own_tests(file).relative_to(ROOT / "tests")) for file in expected} == expected


def test_a_report() -> None:
    file = ROOT / "passes/rules/odd.py"
    first, second, third, *rest = [m.name for m in mutants(file) if m.name not in equivalents()]
    lines = [
        {"name": first, "by": ""}, {"name": first, "by": "tests/passes/rules/test_odd.py::test_a"},
        {"name": second, "by": "tests/plan/test_plan.py::test_b"}, {"name": third, "by": ""},
    ]  # fmt: skip
    same = sum(m.name in equivalents() for m in mutants(file))
    text = report([str(file)], lines)
    assert f"| {len(rest) + 3 + same} | 1 | 1 | {same} | 1 | {len(rest)} |" in text
    assert f"not noticed: {third}" in text
