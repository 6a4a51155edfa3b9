"""A rule that is broken in one factor fails its tests (docs/reliability.md has the table of all rules)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import ROOT, equivalents, mutants


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
    command = [sys.executable, "tests/mutations.py", file, "--only", rule, "--record", str(record)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    results = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(results) >= least
    assert [r["name"] for r in results if not r["by"]] == []
