"""`fxteleport inspect`: what it prints fits a terminal and a pipe, what it writes adds up, wrong names are found."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fxteleport.tools.checking.session import Run
from fxteleport.tools.cli import app

SMALL = ["test_resnet", "--input-size", "3,32,32"]
FACTORY = """
import torch
from torch import nn
class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.mix, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.up, self.gate, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        self.left, self.right, self.act = nn.Linear(16, 8), nn.Linear(16, 8), nn.GELU()
    def forward(self, x):
        x = self.stem(x)
        x = x + self.down(self.up(x) * torch.sigmoid(self.gate(x)))
        y = torch.cat([self.left(x), torch.relu(self.right(x))], 1)
        return self.head(x + self.mix(y) + self.mix(self.act(y)))
class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.h, self.of_b = (nn.Linear(6, 6) for _ in range(5))
    def forward(self, x):
        b = self.b(x)
        return self.h(self.a(x) + b * self.c(x)) + self.of_b(b)
class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8), nn.Linear(8, 3)
    def forward(self, x): return self.head(self.lstm(x)[0])
class Nothing(nn.Module):
    def forward(self, x): return x
def example_inputs(): return torch.randn(4, 6)
"""
MODELS = [SMALL, ["test_vit"], *(["{file}:" + n] for n in ("Gated", "Product", "Recurrent", "Nothing"))]


def call(*args: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *(str(a) for a in args)])


def fits(text: str) -> bool:
    """80 columns, no control characters, no spaces at the ends of lines."""
    return all(len(x) <= 80 and x.isprintable() and x == x.rstrip() for x in text.splitlines())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nets") / "nets.py"
    path.write_text(FACTORY)
    return path


@pytest.fixture(scope="module", params=MODELS, ids=lambda m: m[0])
def spec(request: pytest.FixtureRequest, file: Path) -> list[str]:
    return [a.format(file=file) for a in request.param]


@pytest.fixture(scope="module")
def data(spec: list[str]) -> dict[str, Any]:
    done = call(*spec, "--pinned", "--diff", "--json", "-")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)  # type: ignore[no-any-return]


# -- what is printed -------------------------------------------------------------------------------------


def test_every_view_fits_80_columns(spec: list[str], data: dict[str, Any]) -> None:
    groups, nodes = data["groups"], data["graph"]
    group = ["--group", groups[len(groups) // 2]["id"]] if groups else []
    node = ["--node", nodes[len(nodes) // 2]["node"]]
    views: list[list[object]] = [[], ["--all", "--mode", "weights"]]
    views.append([*group, *node, "--pinned", "--diff", "--landscape", "inter", "--limit", 5])  # several in one call
    for view in views:
        done = call(*spec, *view)
        assert done.exit_code == 0, done.output
        assert done.stdout and done.stderr == ""
        text = done.stdout.replace(spec[0], "net.py:Net")  # a path may be longer than a line
        assert fits(text), text


def test_limit_zero_hides_the_lists_but_says_how_long_they_are(file: Path) -> None:
    text = call(f"{file}:Gated", "--group", "#0", "--limit", 0).stdout
    assert "#0: " in text and "more line" in text and "channels" not in text


# -- what it says ----------------------------------------------------------------------------------------


def test_the_tree_introduces_groups_and_folds_what_is_alike() -> None:
    text = call("test_vit").stdout
    assert "free CoB values in" in text and "wrapped as t f(x / t)" in text
    assert "each like" in text or "like 0" in text
    every = call("test_vit", "--all").stdout
    assert "like 0" not in every and len(every.splitlines()) > len(text.splitlines())


def test_a_group_names_the_operations_that_join_it(file: Path) -> None:
    data = json.loads(call(f"{file}:Gated", "--json", "-").stdout)
    stream = next(g for g in data["groups"] if {"stem", "down"} <= {m["node"] for m in g["members"]})
    text = " ".join(call(f"{file}:Gated", "--group", stream["id"]).stdout.split())
    assert "add (add): they are added" in text
    assert "the weight 'mix.weight' has one scale for all its uses" in text
    assert "stem.weight [16x6] * #" in text and "head.weight [5x16] / #" in text


def test_a_dependent_group_says_on_what_it_depends(file: Path) -> None:
    data = json.loads(call(f"{file}:Product", "--json", "-").stdout)
    (group,) = [g for g in data["groups"] if g["kind"] == "dependent"]
    text = " ".join(call(f"{file}:Product", "--group", group["id"]).stdout.split())
    assert f"6 dependent values: {group['why']}" in text and "Tied to other groups by: add" in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("down", "down: Linear"),  # a module
        ("mul", "mul: mul"),  # a function
        ("up.weight", "up: Linear"),  # a parameter
        ("lstm", "lstm.weight_ih_l0"),
    ],
)
def test_node_takes_any_name(name: str, said: str, file: Path) -> None:
    factory = "Recurrent" if name == "lstm" else "Gated"
    done = call(f"{file}:{factory}", "--node", name)
    assert done.exit_code == 0, done.output
    assert said in " ".join(done.stdout.split())


def test_node_takes_a_module_of_several_nodes() -> None:
    text = call("test_vit", "--node", "blocks.0.mlp").stdout
    assert text.startswith("blocks.0.mlp") and "fc1 Linear" in text and "fc2 Linear" in text and "attn" not in text


def test_pinned_says_what_would_free_more() -> None:
    text = " ".join(call(*SMALL, "--pinned").stdout.split())
    assert "batch norm's running statistics are fixed" in text and "it is an output of the network" in text
    assert "free values with --mode full --norm-stats rescaled (exact in eval mode only)" in text


# -- JSON: the laws behind the tables --------------------------------------------------------------------

KEYS = (
    "model mode norm_stats norms num_free moved nodes parameters conditions specialized opaque groups ties modules"
    " tensors graph pinned one_sided seconds settings diff"
).split()


def test_json_adds_up(data: dict[str, Any]) -> None:
    assert list(data) == KEYS
    groups, modules = data["groups"], data["modules"]
    assert [g["id"] for g in groups] == list(range(len(groups)))
    assert modules[0]["path"] == "" and modules[0]["parameters"] == data["parameters"]
    assert modules[0]["free_values"] == sum(g["size"] for g in groups if g["kind"] == "free")
    assert modules[0]["moved"] == pytest.approx(data["moved"] * data["parameters"])
    assert sum(r["neurons"] for r in data["pinned"]) == sum(g["size"] for g in groups if g["kind"] == "pinned")
    assert all(r["neurons"] == sum(n["neurons"] for n in r["nodes"]) for r in data["pinned"])
    assert len(data["graph"]) == data["nodes"]
    nodes = {n["node"] for n in data["graph"]}
    assert all(set(n["inputs"]) <= nodes for n in data["graph"])
    for g in groups:
        assert all(0 <= x["a"] < len(g["members"]) and 0 <= x["b"] < len(g["members"]) for x in g["links"])


def test_json_names_no_unknown_group(data: dict[str, Any]) -> None:
    known = set(range(len(data["groups"])))

    def used(x: Any) -> Iterator[int]:
        if isinstance(x, dict):
            yield from [x["group"]] if "exponent" in x else [g for v in x.values() for g in used(v)]
        elif isinstance(x, list):
            yield from (g for v in x for g in used(v))

    assert set(used(data)) <= known


# -- files -----------------------------------------------------------------------------------------------


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """The functions that check and write pictures, replaced by ones that only remember their calls."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def fake(module: str, *names: str) -> None:
        for name in names:
            told = functools.partial(lambda name, *args: calls.append((name, args)), name)
            monkeypatch.setattr(f"fxteleport.tools.{module}.{name}", told)

    monkeypatch.setattr("fxteleport.tools.options.outputs.find_spec", lambda name: name)  # it may be missing here
    fake("options.outputs", "check_picture")
    fake("export.outputs", "require_drawable", "draw", "write_html", "write_explorer", "explore")
    return calls


def test_each_option_reaches_its_writer(writers: list[tuple[str, tuple[Any, ...]]], tmp_path: Path) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(b"")
    done = call(
        *SMALL, "--exact", "--seed", 3, "--html", tmp_path / "a.html", "--explorer", tmp_path / "a.json", "--explore",
        "--plot", "features", "--output", tmp_path / "a.png", "--image", image, "--layer", "conv1", "--layer", "bn1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "same function: equal to the last bit" in done.stdout
    assert [name for name, _ in writers] == [
        "check_picture",
        "require_drawable",
        "write_html",
        "write_explorer",
        "draw",
        "explore",
    ]
    given = dict(writers)
    found = given["write_html"][0]
    assert isinstance(found, Run) and found.settings.exact and found.settings.seed == 3
    assert given["write_html"] == (found, tmp_path / "a.html")
    assert given["write_explorer"] == (found, tmp_path / "a.json")
    assert given["draw"] == ("features", found, tmp_path / "a.png", image, ("conv1", "bn1"))
    assert given["explore"] == (found,)


def test_nothing_is_teleported_for_a_look(writers: list[tuple[str, tuple[Any, ...]]]) -> None:
    assert call(*SMALL).exit_code == 0
    assert writers == []


# -- wrong calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--group", "99"], "--group takes the number of a group, 0 to "),
        (["--group", "conv1"], "--node takes names"),
        (["--node", "layer1.0.con1"], "did you mean layer1.0.conv1"),
        (["--node", "zzzzzzzz"], "the graph has no node 'zzzzzzzz'"),
        (["--plot", "weights"], "go together"),
        (["--output", "x.png"], "go together"),
        (["--plot", "pie", "--output", "{tmp}/x.png"], "pie"),
        (["--plot", "weights", "--output", "{tmp}/x.png", "--image", "{tmp}"], "--image is for --plot features"),
        (["--plot", "features", "--output", "{tmp}/x.png", "--image", "{tmp}/absent.png"], "there is no image"),
        (["--layer", "conv1"], "--layer is for --plot"),
        (["--html", "{tmp}/no/where.html"], "cannot write"),
        (["--depth", "0"], "--depth"),
        (["--limit", "-1"], "--limit"),
        (["--mode", "weights", "--norm-stats", "wrapped"], "use rescaled"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_wrong_calls(args: list[str], message: str, tmp_path: Path) -> None:
    done = call(*SMALL, *(a.format(tmp=tmp_path) for a in args))
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("fxteleport: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_groups_says_so(file: Path) -> None:
    done = call(f"{file}:Nothing", "--group", "0")
    assert done.exit_code == 2 and "no neuron groups" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--node", "layer1.0.con1", "--html", "{tmp}/a.html"], "did you mean layer1.0.conv1"),
        (["--group", "999", "--html", "{tmp}/a.html"], "--group takes the number"),
        (["--plot", "weights", "--output", "{tmp}/x.png", "--layer", "layer9"], "did you mean layer"),
        (["--plot", "cob", "--output", "{tmp}/x.png", "--layer", "layr1"], "did you mean layer1"),
        (["--plot", "features", "--output", "{tmp}/x.png", "--layer", "layr1"], "did you mean layer1"),
        (["--plot", "features", "--output", "{tmp}/x.png", "--image", __file__], "is not an image"),
    ],
)
def test_names_are_looked_up_before_a_network_is_teleported(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fxteleport.tools.checking.session.run", pytest.fail)
    done = call(*SMALL, *(a.format(tmp=tmp_path) for a in args))
    assert done.exit_code == 2 and message in done.stderr, done.output
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []
