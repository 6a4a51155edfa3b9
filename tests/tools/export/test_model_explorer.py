"""Model Explorer: the export is in its format, and the real viewer shows it."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import timm

import fxteleport as ft
from fxteleport.tools.checking.session import Run, run
from fxteleport.tools.export import model_explorer
from fxteleport.tools.export.model_explorer import OVERLAYS, explore, write_explorer
from fxteleport.tools.models.load import load
from fxteleport.tools.models.request import Request
from fxteleport.tools.options.common import Settings

KEYS = ["error", "moved", "cob", "group"]


@pytest.fixture(scope="module")
def files(done: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_explorer(done, tmp_path_factory.mktemp("explorer") / "net.json")


def test_a_graph_and_its_overlays_lie_side_by_side(files: list[Path]) -> None:
    assert [f.name for f in files] == ["net.json", *(f"net.{key}.json" for key in KEYS)]
    assert sorted(files) == sorted(files[0].parent.iterdir())


def test_the_graph_is_the_rewritten_one(files: list[Path], done: Run, hostile: str) -> None:
    (graph,) = json.loads(files[0].read_text())
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert list(nodes) == [n.name for n in done.network.graph.nodes]
    for node in done.network.graph.nodes:
        edges = nodes[node.name]["incomingEdges"]
        assert [e["sourceNodeId"] for e in edges] == [n.name for n in node.all_input_nodes]
    inner = next(n for n in graph["nodes"] if n["label"].endswith("GELU"))
    assert inner["namespace"] == "blocks/" + hostile.replace("/", "_")  # "/" ends a namespace's name
    assert nodes["stem"]["label"] == "stem: Conv2d" and nodes["stem"]["namespace"] == ""
    assert all(isinstance(a["value"], str) and a["value"] for n in graph["nodes"] for a in n["attrs"])
    assert graph["groupNodeAttributes"][""]["same function"] == "yes"


def test_overlays_tell_of_nodes(files: list[Path]) -> None:
    (graph,) = json.loads(files[0].read_text())
    ids = {n["id"] for n in graph["nodes"]}
    held = {key: json.loads(file.read_text())[graph["id"]] for key, file in zip(KEYS, files[1:], strict=True)}
    assert all(set(data["results"]) <= ids and data["results"] for data in held.values())
    group, cob, moved, error = (
        {n: r["value"] for n, r in held[k]["results"].items()} for k in ("group", "cob", "moved", "error")
    )
    assert group["stem"] == group["relu"] != group["head"] == "pinned to 1"
    assert cob["stem"] > 0 == cob["x"]
    assert moved["stem"] == 1 and "relu" not in moved
    assert all(0 <= e < 1e-5 for e in error.values())
    assert held["cob"]["gradient"] and "gradient" not in held["group"]


def test_wrong_calls(done: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ft.InputError, match=r"reads \.json files; got"):
        write_explorer(done, tmp_path / "net.txt")
    with pytest.raises(ft.TeleportError, match="cannot write"):
        write_explorer(done, tmp_path / "none" / "net.json")
    monkeypatch.setitem(sys.modules, "model_explorer", None)
    with pytest.raises(ft.InputError, match=r"pip install 'fxteleport\[explorer\]'"):
        explore(done)


def test_numbers_that_json_has_not() -> None:
    assert model_explorer._number(float("inf")) == {"value": 1e308}
    assert model_explorer._number(None) is None


# -- in the real viewer ----------------------------------------------------------------------------------


@contextmanager
def served(*arguments: str, code: str | None = None) -> Iterator[str]:
    """Start Model Explorer (or a script that does) and give the address that it prints."""
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "model_explorer", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "BROWSER": "true"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        assert server.stdout is not None
        said = []
        for line in server.stdout:
            said.append(line)
            if found := re.match(r"http://localhost:\d+\S*", line):
                yield found[0]
                return
        pytest.fail("Model Explorer did not start: " + "".join(said))
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def shown(browser: Any, address: str) -> Iterator[Any]:
    """The viewer's page, once it has drawn a graph with its node data; an error on it is a failure."""
    tab = browser.new_page(viewport={"width": 900, "height": 600})
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    tab.route(lambda url: "//localhost" not in url, lambda route: route.abort())  # its fonts are on the network
    tab.goto(address, wait_until="domcontentloaded")
    tab.get_by_text("op node count").wait_for()
    tab.get_by_text(OVERLAYS[-1].title).first.wait_for()
    try:
        yield tab
    finally:
        tab.close()
    assert not wrong, wrong


@pytest.fixture
def viewer() -> None:
    pytest.importorskip("model_explorer", reason="needs Model Explorer: pip install ai-edge-model-explorer")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of one viewer for many files."""
    pytest.importorskip("model_explorer", reason="needs Model Explorer: pip install ai-edge-model-explorer")
    with served("--no_open_in_browser", "--port", str(free_port())) as address:
        yield address


def draws(browser: Any, address: str, nodes: int, tmp_path: Path) -> None:
    """The viewer shows the graph and its overlays."""
    with shown(browser, address) as tab:
        text = tab.inner_text("body")
        assert f"{nodes} nodes" in text
        assert all(overlay.title in text for overlay in OVERLAYS)
        tab.screenshot(path=str(tmp_path / "seen.png"))
        assert (tmp_path / "seen.png").stat().st_size > 20_000


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def test_the_viewer_reads_the_files(viewer: None, browser: Any, files: list[Path], done: Run, tmp_path: Path) -> None:
    overlays = ",".join(str(f) for f in files[1:])
    call = (str(files[0]), "--node_data_paths", overlays, "--no_open_in_browser", "--port", str(free_port()))
    with served(*call) as address:
        draws(browser, address, len(done.network.graph.nodes), tmp_path)


def test_explore_opens_the_viewer(viewer: None, browser: Any) -> None:
    code = (
        "from fxteleport.tools.checking.session import run\n"
        "from fxteleport.tools.export.model_explorer import explore\n"
        "from fxteleport.tools.models.load import Request, load\n"
        "from fxteleport.tools.options.common import Settings\n"
        "explore(run(load('test_resnet', Request((3, 32, 32))), Settings()))\n"
    )
    with served(code=code) as address, shown(browser, address) as tab:
        text = tab.inner_text("body")
        assert "test_resnet" in text and "same function" in text
        assert all(overlay.title in text for overlay in OVERLAYS)


@pytest.mark.slow
@pytest.mark.parametrize("family", timm.list_modules())
def test_every_family_loads(server: str, browser: Any, tmp_path: Path, family: str) -> None:
    """The smallest network of each family (a module of timm)."""
    name, size = smallest_of(family)
    done = run(load(name, Request(batch=1, input_size=size)), Settings())
    graph, *overlays = map(str, write_explorer(done, tmp_path / "net.json"))
    shown = {"models": [{"url": graph}], "nodeData": overlays, "nodeDataTargets": [""] * len(overlays)}
    draws(browser, f"{server}/?data={quote(json.dumps(shown))}", len(done.network.graph.nodes), tmp_path)


def smallest_of(family: str) -> tuple[str, tuple[int, ...]]:
    """The name of the network with the fewest parameters and the size of its input, as in the coverage survey."""
    with (Path(__file__).parents[3] / "docs" / "coverage.csv").open(newline="") as table:
        rows = {row["model"]: row for row in csv.DictReader(table)}
    found = min((rows[name] for name in timm.list_models(module=family)), key=lambda row: int(row["parameters"]))
    return found["model"], tuple(int(n) for n in found["size"].split("x"))
