"""Every form of call in torch's own tables of operations and layers, in a process of its own: they change torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("expecttest", reason="torch's own tables need the package expecttest")


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        pytest.param(["--every", "8", "--most", "1"], 250, id="some"),
        pytest.param(["--every", "16", "--most", "1", "--dtype", "complex64"], 50, id="some complex"),
        pytest.param(["--every", "16", "--most", "1", "--sizes"], 60, id="some at other sizes"),
        *(
            pytest.param(["--most", "20", "--dtype", dtype], 5_000, id=f"all {dtype}", marks=pytest.mark.slow)
            for dtype in ("float32", "float64", "bfloat16", "complex64")
        ),
        pytest.param(["--most", "20", "--sizes"], 4_000, id="all at other sizes", marks=pytest.mark.slow),
    ],
)
def test_every_form_of_call(arguments: list[str], least: int) -> None:
    script = Path(__file__).with_name("torch_samples.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    equal = re.search(r"'equal': (\d+)", done.stdout)
    assert equal is not None
    assert int(equal[1]) > least, done.stdout
