"""Known architectures: exact to the last bit at every node, and emitted as ordinary modules."""

from __future__ import annotations

import copy
import shutil
import warnings
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import fxteleport as ft

# model -> an input size that it accepts
MODELS = {
    "resnet18": 64,
    "vgg11_bn": 224,
    "densenet121": 64,
    "mobilenetv3_small_100": 64,
    "efficientnet_b0": 64,
    "regnety_002": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 224,
    "mixer_s32_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "cait_xxs24_224": 224,
    "levit_128s": 224,
    "dm_nfnet_f0": 96,
    "eva02_tiny_patch14_224": 224,
    "torchvision/resnet18": 64,
    "torchvision/mobilenet_v2": 64,
    "torchvision/vit_b_16": 224,
}
FAST = ["resnet18", "mobilenetv3_small_100", "regnety_002", "convnext_atto", "torchvision/mobilenet_v2"]
MODES = [("full", "fixed"), ("full", "rescaled"), ("full", "wrapped"), ("weights", "fixed"), ("weights", "rescaled")]


def created(name: str) -> nn.Module:
    """A timm or torchvision model of 10 classes with random parameters."""
    torch.manual_seed(0)
    if name.startswith("torchvision/"):
        return torchvision.models.get_model(name.partition("/")[2], weights=None, num_classes=10).eval()
    return timm.create_model(name, num_classes=10).eval()


def pictures(name: str, batch: int = 2) -> Tensor:
    size = MODELS[name]
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(5))


def cases(names: list[str]) -> list[object]:
    """Every (name, mode, norm_stats); all but the fast ones' main settings are slow."""
    quick = {("full", "fixed"), ("full", "wrapped"), ("weights", "rescaled")}
    return [
        pytest.param(
            name, mode, stats, id=f"{name}-{mode}-{stats}",
            marks=() if name in FAST and (mode, stats) in quick else pytest.mark.slow,
        )
        for name in names for mode, stats in MODES
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "which", "stats"), cases(list(MODELS)))
def test_exact(name: str, which: str, stats: str, assert_exact: Callable[..., ft.Plan]) -> None:
    assert_exact(created(name), pictures(name, 2 if name in FAST else 1), mode=which, norm_stats=stats)


@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)  # fmt: skip
def test_nothing_is_opaque(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ft.OpaqueModuleWarning)
        plan = ft.plan(created(name), pictures(name, 1))
    assert [(o.node, o.why) for o in plan.opaque] == []


@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_100", "regnety_002",
     *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet18", "convnext_atto"))],
)  # fmt: skip
@pytest.mark.parametrize("stats", ["fixed", "wrapped"])
def test_exact_in_bfloat16(name: str, stats: str, assert_exact: Callable[..., ft.Plan]) -> None:
    model = ft.randomize(created(name)).to(torch.bfloat16)
    assert_exact(model, pictures(name, 1).to(torch.bfloat16), norm_stats=stats, randomize=False)


@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_100", "regnety_002", "convnext_atto",
     *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet18", "vit_tiny_patch16_224", "densenet121"))],
)  # fmt: skip
@pytest.mark.parametrize(("which", "stats"), [("full", "wrapped"), ("weights", "rescaled")])
def test_uniform_in_float64(name: str, which: str, stats: str) -> None:
    model = ft.randomize(created(name)).double()
    x = pictures(name, 1).double()
    plan = ft.plan(model, x, mode=which, norm_stats=stats)
    report = ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", seed=0)), x)
    assert report.passed, report
    assert 0 < report.max_rel < 1e-9
    assert not report.bitwise_equal


@pytest.fixture(scope="module", params=["mobilenetv3_small_100", "convnext_atto"])
def pair(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor]:
    """A model, its teleported version with wrapped operations everywhere, and images."""
    model = ft.randomize(created(request.param))
    x = pictures(request.param)
    return model, ft.teleport(model, x, cob_range=0.9, landscape="inter", exact=True, seed=0, norm_stats="wrapped"), x


@torch.no_grad()
def test_deepcopy(pair: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, network, x = pair
    twin = copy.deepcopy(network)
    assert list(twin.state_dict()) == list(network.state_dict())
    assert twin.state_dict().keys() >= model.state_dict().keys()
    assert torch.equal(twin(x), network(x))
    assert twin(x).data_ptr() != network(x).data_ptr()
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(twin.parameters(), network.parameters(), strict=True))
    assert ft.verify(model, twin, x).bitwise_equal


@torch.no_grad()
def test_export(pair: tuple[nn.Module, nn.Module, Tensor]) -> None:
    _, network, x = pair
    exported = torch.export.export(copy.deepcopy(network), (x,))
    assert torch.allclose(exported.module()(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_compile(pair: tuple[nn.Module, nn.Module, Tensor]) -> None:
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler")
    _, network, x = pair
    expected = network(x)
    found = torch.compile(copy.deepcopy(network))(x)
    assert ((found - expected).abs().max() / expected.abs().max()) < 1e-4


@torch.no_grad()
def test_compile_small() -> None:
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler")
    model = ft.randomize(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    x = torch.randn(4, 6)
    network = ft.teleport(model, x, cob_range=0.9, landscape="inter", seed=0)
    assert torch.allclose(torch.compile(network)(x), model(x), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_other_sizes_and_batches(pair: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, network, _ = pair
    for batch in (1, 5):
        wider = torch.randn(batch, 3, 96, 96)
        assert torch.equal(network(wider), model(wider))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_exact_on_cuda(name: str, dtype: torch.dtype, assert_exact: Callable[..., ft.Plan]) -> None:
    model = ft.randomize(created(name)).to(device="cuda", dtype=dtype)
    plan = assert_exact(model, pictures(name).to(device="cuda", dtype=dtype), norm_stats="wrapped", randomize=False)
    network = plan.rewrite(plan.sample(seed=0))
    assert all(t.is_cuda for t in network.state_dict().values())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_cpu_plan_moves_to_cuda() -> None:
    model = ft.randomize(created("mobilenetv3_small_100"))
    x = pictures("mobilenetv3_small_100")
    network = ft.teleport(model, x, cob_range=0.9, landscape="inter", seed=0).cuda()
    assert torch.allclose(network(x.cuda()).cpu(), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_weights_are_scaled_on_cuda_as_on_the_cpu(name: str, dtype: torch.dtype) -> None:
    """To the last bit, whichever kernel does it; and some that are no matrix to one."""
    model = ft.randomize(created(name)).to(dtype)
    for parameter in [*model.parameters()][::5]:
        if parameter.ndim == 2:
            parameter.data = parameter.data.mT.contiguous().mT
    twin = copy.deepcopy(model).cuda()
    for here in (model, twin):
        x = pictures(name).to(next(here.parameters()))
        plan = ft.plan(here, x, mode="weights", norm_stats="rescaled")
        plan.apply_(plan.sample(0.9, seed=0))
    scaled = dict(twin.state_dict())
    assert all(
        scaled[key].is_cuda and torch.equal(scaled[key].cpu(), value) for key, value in model.state_dict().items()
    )
