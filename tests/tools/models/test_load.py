"""MODEL arguments: names, factories, weights and inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import fxteleport as ft
from fxteleport.models import zoo
from fxteleport.tools.models.load import load
from fxteleport.tools.models.request import Request

FACTORY = """
import torch
from torch import nn
from neighbour import WIDTH

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, 5), nn.Linear(5, 2)
    def forward(self, x, *, scale=None):
        y = self.b(self.a(x).relu())
        return y if scale is None else y * scale

def plain(): print("noise"); return Net()
def raises(): raise ValueError("no luck\\ntoday")
def leaves(): raise SystemExit(7)
def nothing(): return None
def number(): return 3
def keywords():
    net = Net()
    net.example_inputs = lambda: {"x": torch.ones(4, WIDTH), "scale": torch.ones(2)}
    return net
ready = Net()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    (tmp_path / "nets.py").write_text(FACTORY)
    return tmp_path / "nets.py"


def test_a_timm_name_brings_its_input_size() -> None:
    found = load("test_resnet", Request())
    assert [tuple(x.shape) for x in found.args] == [(2, 3, 160, 160)]
    assert not found.model.training
    assert "re-drawn" in found.weights


def test_input_size_reaches_the_constructor() -> None:
    built = zoo.build("test_vit", (3, 64, 64))
    model, shapes = built.model, built.shapes
    assert shapes == ((3, 64, 64),)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    model = zoo.build("test_resnet", (1, 32, 32)).model
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 1000)


def test_torchvision() -> None:
    found = load("torchvision/squeezenet1_1", Request(input_size=(3, 64, 64)))
    assert type(found.model).__module__.startswith("torchvision.")


def test_the_seed_decides_weights_and_inputs() -> None:
    a, b, c = (load("test_resnet", Request((3, 32, 32), redraw=False, seed=s)) for s in (1, 1, 2))
    weights = [next(x.model.parameters()) for x in (a, b, c)]
    assert torch.equal(weights[0], weights[1]) and torch.equal(a.args[0], b.args[0])
    assert not torch.equal(weights[0], weights[2])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    load("test_resnet", Request((3, 32, 32)))
    assert torch.equal(torch.rand(1), expected)


def test_dtype() -> None:
    found = load("test_resnet", Request((3, 32, 32), dtype=torch.bfloat16))
    assert found.args[0].dtype == next(found.model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet81", "did you mean .*resnet18"),
        ("torchvision/resnet81", "did you mean .*torchvision/resnet18"),
        ("qqqqqqq", "pass a timm name"),
        ("torchvision/quantized_resnet18", "quantised"),
        ("nowhere.py:make", "no file 'nowhere.py'"),
        ("nowhere.py", "names no factory"),
    ],
)
def test_wrong_names(spec: str, message: str) -> None:
    with pytest.raises(ft.ModelError, match=message):
        load(spec, Request())


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("raises", "ValueError: no luck"),
        ("leaves", "SystemExit"),
        ("nothing", "returned a NoneType"),
        ("number", "returned a int"),
        ("plane", "did you mean plain"),
    ],
)
def test_wrong_factories(file: Path, factory: str, message: str) -> None:
    with pytest.raises(ft.ModelError, match=message):
        load(f"{file}:{factory}", Request((3,)))


def test_a_file_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def make(:\n")
    with pytest.raises(ft.ModelError, match="SyntaxError"):
        load(f"{tmp_path}/broken.py:make", Request((3,)))


def test_factories_keep_their_weights_and_their_silence(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = load(f"{file}:plain", Request((3,)))
    assert found.args[0].shape == (2, 3)
    assert found.weights == "as the factory made them"
    assert capsys.readouterr().out == ""
    assert load(f"{file}:ready", Request((3,))).parameters == 32


def test_example_inputs(file: Path) -> None:
    found = load(f"{file}:keywords", Request(dtype=torch.float64))
    assert set(found.kwargs) == {"x", "scale"}
    assert found.kwargs["x"].dtype == torch.float64
    with pytest.raises(ft.InputError, match="--input-size"):
        load(f"{file}:plain", Request())


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        prefixed(""),
        lambda s: {"state_dict": s},
        lambda s: {"model": s},
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        lambda s: {"state_dict": prefixed("_orig_mod.module.")(s)},
    ],
)
def test_checkpoints(tmp_path: Path, wrap: Callable[[dict[str, Tensor]], object]) -> None:
    model = timm.create_model("test_resnet")
    state = model.state_dict()
    torch.save(wrap(state), tmp_path / "w.pt")
    loaded = load("test_resnet", Request((3, 32, 32), checkpoint=tmp_path / "w.pt"))
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.state_dict().values(), state.values(), strict=True))


def test_a_model_may_call_a_part_of_its_own_module(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.module = nn.Linear(3, 2)\n"
        "    def forward(self, x):\n"
        "        return self.module(x)\n"
    )
    state = prefixed("module.")(torch.nn.Linear(3, 2).state_dict())
    for prefix in ("", "module."):
        torch.save(prefixed(prefix)(state), tmp_path / "w.pt")
        loaded = load(f"{tmp_path}/net.py:Net", Request((3,), checkpoint=tmp_path / "w.pt"))
        assert torch.equal(loaded.model.state_dict()["module.weight"], state["module.weight"])


def test_bad_checkpoints(tmp_path: Path) -> None:
    def loading(name: str) -> None:
        load("test_resnet", Request((3, 32, 32), checkpoint=tmp_path / name))

    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "other.pt")
    save_file({"w": torch.ones(1)}, str(tmp_path / "other.safetensors"))
    torch.save(Request(), tmp_path / "code.pt")
    for name, message in [
        ("absent.pt", "no file"),
        ("garbage.pt", "corrupt"),
        ("garbage.safetensors", "not a readable"),
        ("list.pt", "no state dict"),
        ("other.pt", "not a checkpoint of this model"),
        ("other.safetensors", "missing"),
        ("code.pt", "more than tensors"),
    ]:
        with pytest.raises(ft.CheckpointError, match=message):
            loading(name)


def test_a_full_mode_network_is_no_checkpoint_of_the_original(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet").eval()
    ft.save(tmp_path / "net", ft.teleport(model, torch.zeros(2, 3, 32, 32), seed=0), "test_resnet")
    with pytest.raises(ft.CheckpointError, match=r"fxteleport\.load"):
        load("test_resnet", Request((3, 32, 32), checkpoint=tmp_path / "net.safetensors"))
