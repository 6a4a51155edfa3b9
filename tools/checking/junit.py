"""JUnit: the records of a check as the XML that build servers read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from fxteleport.tools.checking.records import Outcome, Record

# What XML 1.0 cannot hold, escaped or not.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(records: Sequence[Outcome]) -> str:
    """A test suite with a test case for each record and its text."""
    failed = sum(not r["passed"] and "error" not in r for r, _ in records)
    errors = sum("error" in r for r, _ in records)
    counts = {"tests": len(records), "failures": failed, "errors": errors, "skipped": 0}
    spent = sum(map(_seconds, (r for r, _ in records)))
    totals = {**{k: str(v) for k, v in counts.items()}, "time": f"{spent:.3f}"}
    root = ET.Element("testsuites", {"name": "fxteleport", **totals})
    suite = ET.SubElement(root, "testsuite", {"name": "fxteleport check", **totals})
    for record, why in records:
        case = ET.SubElement(
            suite,
            "testcase",
            {"classname": _clean(record["model"]), "name": _clean(name(record)), "time": f"{_seconds(record):.3f}"},
        )
        if not record["passed"]:
            kind = "error" if "error" in record else "failure"
            ET.SubElement(case, kind, {"message": _clean(why)}).text = _clean(_details(record))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def name(record: Record) -> str:
    """The settings by which a check differs from the others of its model."""
    if record["against"] is not None:
        parts = [f"against {record['against']}"]
    else:
        law = f"{record['landscape']}{' exact' if record['exact'] else ''}"
        parts = [f"{record['mode']}/{record['norm_stats']}", law]
    parts += [record["dtype"], record["device"], f"seed {record['seed']}"]
    parts += [f"batch {record['batch']}"] if record["batch"] is not None else []
    return ", ".join([*parts, "train mode"] if record["training"] else parts)


def _details(record: Record) -> str:
    first = record["first_difference"]
    return "\n".join(f"{key}: {value}" for key, value in first.items()) if first else ""


def _seconds(record: Record) -> float:
    return float(sum((record["seconds"] or {}).values()))


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
