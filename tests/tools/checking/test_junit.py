"""JUnit XML: any record becomes XML that a parser reads back."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from fxteleport.tools.checking.junit import junit, name
from fxteleport.tools.checking.records import blank
from fxteleport.tools.models.load import Request
from fxteleport.tools.options.common import Settings

FIRST = {"node": "<relu>", "path": "a & b", "expected": 1.0}
records = st.builds(
    lambda model, why, kind: (
        blank(model, Settings(), Request())
        | {"pass": {"passed": True}, "fail": {"first_difference": FIRST}, "error": {"error": why}}[kind],
        why,
    ),
    st.text(min_size=1),
    st.text(),
    st.sampled_from(["pass", "fail", "error"]),
)


@given(st.lists(records, max_size=5))
def test_any_record_is_read_back(found: list) -> None:
    suite = ET.fromstring(junit(found).encode())[0]
    cases = suite.findall("testcase")
    assert len(cases) == len(found) == int(suite.attrib["tests"])
    errors, failures = (sum(c.find(kind) is not None for c in cases) for kind in ("error", "failure"))
    assert errors == int(suite.attrib["errors"]) == sum("error" in r for r, _ in found)
    assert failures == int(suite.attrib["failures"]) == sum(not r["passed"] for r, _ in found) - errors
    for case, (record, why) in zip(cases, found, strict=True):
        legal = "".join(c if c.isprintable() or c == " " else "?" for c in record["model"])
        if legal == record["model"] and legal.isascii():
            assert case.attrib["classname"] == legal
        problem = case.find("failure")
        if problem is not None:
            assert "node: <relu>\npath: a & b" in str(problem.text)
            assert not why.isascii() or not why.isprintable() or problem.attrib["message"] == why


def test_names_tell_checks_apart() -> None:
    base = blank("m", Settings(), Request())
    other = {
        "mode": "weights", "norm_stats": "wrapped", "landscape": "log", "exact": True, "dtype": "bfloat16",
        "device": "cuda", "seed": 3, "batch": 7, "training": True, "against": "x.pt",
    }  # fmt: skip
    names = {name(base)} | {name(base | {key: value}) for key, value in other.items()}
    assert len(names) == 1 + len(other)
