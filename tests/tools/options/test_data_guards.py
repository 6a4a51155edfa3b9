"""`--data-guards / --no-data-guards`: what a mask decides is followed, or kept whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxteleport.tools.cli import app

SOURCE = """
import torch
from torch import nn

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, mask):
        y = self.b(torch.relu(self.a(x)))
        return y if mask.sum() > 3 else y * mask[:, :1]

def masked():
    return Masked()

def example_inputs():
    return torch.randn(2, 4), torch.ones(2, 4, dtype=torch.long)
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("option", "free"), [([], 6), (["--data-guards"], 6), (["--no-data-guards"], 0)])
def test_what_a_mask_decides(option: list[str], free: int, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SOURCE)
    at = tmp_path / "result.json"
    done = CliRunner().invoke(app, ["teleport", f"{tmp_path / 'net.py'}:masked", "--exact", *option, "--json", str(at)])
    assert done.exit_code in ((0,) if free else (0, 1)), done.output
    assert json.loads(at.read_text())["num_free"] == free
