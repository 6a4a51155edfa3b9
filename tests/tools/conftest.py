"""What the tests of the tools share: small runs, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft
from fxteleport.tools.checking.session import Run, run
from fxteleport.tools.models.load import Loaded
from fxteleport.tools.options.common import Settings

HOSTILE = "<img src=x onerror=alert(1)>&'</script><!--$x$"  # torch.fx takes any name but one with a double quote


class Net(nn.Module):
    """Two convolutions, a residual, a GELU, and a head; one module's name is no friend of a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 1))
        self.blocks = nn.Sequential()
        self.blocks.add_module(HOSTILE, block)
        self.norm = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.blocks(x)
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))


def run_of(model: nn.Module, *inputs: Tensor, spec: str = "net.py:Net", **settings: Any) -> Run:
    """A run on a model of one's own, its parameters drawn at random."""
    loaded = Loaded(spec, ft.randomize(model.eval()), inputs, {}, "random")
    return run(loaded, Settings(**({"landscape": "inter", "cob_range": 0.9} | settings)))


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    return run_of


@pytest.fixture(scope="session")
def done() -> Run:
    """A run of the small network."""
    torch.manual_seed(0)
    return run_of(Net(), torch.randn(2, 3, 16, 16), spec=f"net.py:{HOSTILE}")


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; the tests that need it skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader"]
        launched = driver.chromium.launch(executable_path=chromium, args=arguments)
        yield launched
        launched.close()
