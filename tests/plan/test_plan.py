"""Plans: how many values are free, what they move, and teleportation as a group action."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import fxteleport as ft


def planned(name: str, size: int = 224, **settings: Any) -> ft.Plan:
    """The plan of a timm model on the meta device."""
    model = timm.create_model(name).eval().to("meta")  # not built there, which not all versions can
    return ft.plan(model, torch.empty(2, 3, size, size, device="meta"), **settings)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return ft.randomize(timm.create_model("resnet18", num_classes=10).eval())


@pytest.fixture(scope="module")
def batch() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolution, batch norm, residual, pooling, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.c = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 6, 1)
        self.h, self.o = nn.Linear(6, 7), nn.Linear(7, 4)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.n(self.a(x)))
        x = x + self.c(torch.relu(self.b(x)))
        return self.o(torch.tanh(self.h(x.mean((2, 3)))))


@pytest.fixture
def net() -> nn.Module:
    return ft.randomize(Net().double().eval())


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)).double()


# -- how many values are free ------------------------------------------------------------------------------


def test_resnet18_by_hand() -> None:
    """Two blocks a stage: a stream (batch norm's output) a stage, one inner batch norm's output a block."""
    widths = (64, 128, 256, 512)
    streams, inner = sum(widths), sum(2 * w for w in widths)
    assert planned("resnet18").num_free == streams + inner == 2880
    # Freed batch norm inputs: the stem's and both of every block's, and the shortcut's of three stages.
    inputs = 64 + sum(4 * w for w in widths) + sum(widths[1:])
    for norm_stats in ("rescaled", "wrapped"):
        assert planned("resnet18", norm_stats=norm_stats).num_free == streams + inner + inputs == 7680


def test_vgg11_bn_by_hand() -> None:
    """Eight batch norms' outputs, and two hidden layers of 4096."""
    assert planned("vgg11_bn").num_free == sum((64, 128, 256, 256, 512, 512, 512, 512)) + 2 * 4096 == 10944


def test_vit_tiny_by_hand() -> None:
    """The stream; in each block norm1, q = 1/k, v, norm2, hidden; the last norm."""
    width, hidden = 192, 768
    block = width + width + width + width + hidden
    assert planned("vit_tiny_patch16_224").num_free == width + 12 * block + width == 18816


def test_convnext_atto_by_hand() -> None:
    """A stage: its stream, and in each block the depthwise output, the norm's, the hidden layer's and what the
    layer scale maps to the stream; the stem's and the downsampling norms' outputs; the last norm."""
    widths, depths = (40, 80, 160, 320), (2, 2, 6, 2)
    blocks = sum(d * (w + w + 4 * w + w) for w, d in zip(widths, depths, strict=True))
    norms = 40 + 40 + 80 + 160 + 320  # stem; before three downsamplings; head
    streams = sum(widths)
    assert planned("convnext_atto").num_free == streams + blocks + norms == 14120


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("densenet121", 41760),
        ("efficientnet_b0", 29324),
        ("mobilenetv3_small_100", 9624),
        ("regnety_002", 11156),
        ("mixer_s32_224", 23049),
    ],
)
def test_free_values_of_known_models(name: str, free: int) -> None:
    assert planned(name).num_free == free


def test_free_values_do_not_depend_on_batch_or_weights(resnet: nn.Module, batch: Tensor) -> None:
    assert ft.plan(resnet, batch).num_free == ft.plan(resnet, batch[:1]).num_free == 2880


def test_every_free_value_is_used() -> None:
    """Moving one free value moves something: no value is counted that does nothing."""
    plan = ft.plan(Net().eval(), torch.randn(1, 3, 5, 5))
    solution = plan.solution
    used = set(solution.index.tolist()) | set(solution.many_index.reshape(-1).tolist())
    assert used >= set(range(plan.num_free))


# -- groups, moved, opaque -----------------------------------------------------------------------------------


def test_groups_add_up(net: nn.Module, image: Tensor) -> None:
    plan = ft.plan(net, image)
    assert sum(g.size for g in plan.groups if g.kind == "free") == plan.num_free == 6 + 5 + 7
    assert {g.size for g in plan.groups if g.kind == "free"} == {6, 5, 7}
    assert [g.id for g in plan.groups] == list(range(len(plan.groups)))
    for group in plan.groups:
        assert group.kind in ("free", "dependent", "pinned")
        assert group.members
        if group.kind == "pinned":
            assert group.why


def test_pinned_groups_say_why(net: nn.Module, image: Tensor) -> None:
    pinned = [g for g in ft.plan(net, image).groups if g.kind == "pinned"]
    assert any("output" in g.why for g in pinned)
    assert any("batch norm" in g.why for g in pinned)


def test_moved_counts_elements_whose_factor_is_not_one(net: nn.Module, image: Tensor) -> None:
    plan = ft.plan(net, image)
    cob = plan.sample(0.9, "log", seed=1)
    scales = plan.scales(cob)
    elements = sum(
        int((scales[name].expand(p.shape) != 1).sum()) for name, p in net.named_parameters() if name in scales
    )
    assert plan.moved == elements / sum(p.numel() for p in net.parameters())
    assert 0 < plan.moved < 1


def test_moved_of_a_chain_of_linear_layers() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    plan = ft.plan(model, torch.randn(1, 3))
    assert plan.num_free == 5
    assert plan.moved == (15 + 5 + 10) / (15 + 5 + 10 + 2)


# -- scales --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_stats", ["fixed", "rescaled", "wrapped"])
def test_scales_are_the_ratio_of_rewritten_tensors(net: nn.Module, image: Tensor, norm_stats: str) -> None:
    plan = ft.plan(net, image, norm_stats=norm_stats)
    cob = plan.sample(0.9, "inter", exact=True, seed=2)
    scales, before, after = plan.scales(cob), net.state_dict(), plan.rewrite(cob).state_dict()
    assert before.keys() <= after.keys()
    for name, tensor in before.items():
        factor = scales.get(name, torch.ones(()))
        assert torch.broadcast_shapes(factor.shape, tensor.shape) == tensor.shape
        assert torch.equal(after[name], tensor * factor), name
    assert "n.running_var" not in scales
    assert ("n.running_mean" in scales) == (norm_stats == "rescaled")


def test_scales_are_differentiable(net: nn.Module, image: Tensor) -> None:
    plan = ft.plan(net, image)
    values = plan.sample(0.5, "intra", seed=3).values.requires_grad_()

    def weights(values: Tensor) -> tuple[Tensor, ...]:
        return tuple(plan.scales(plan.cob(values)).values())

    assert torch.autograd.gradcheck(weights, (values,))


def test_scales_of_tied_parameters_agree() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.mix(self.embed(x))))

    model = Tied()
    plan = ft.plan(model, torch.arange(3)[None])
    scales = plan.scales(plan.sample(0.9, seed=0))
    assert torch.equal(scales["embed.weight"], scales["head.weight"])
    network = plan.rewrite(plan.sample(0.9, seed=0))
    assert network.get_parameter("embed.weight") is network.get_parameter("head.weight")


# -- rewrite is a group action ---------------------------------------------------------------------------------


def test_identity_is_the_original(net: nn.Module, image: Tensor) -> None:
    for norm_stats in ("fixed", "wrapped"):
        plan = ft.plan(net, image, norm_stats=norm_stats)
        network = plan.rewrite(plan.identity())
        assert not [m for m in network.modules() if isinstance(m, (ft.Rescale, ft.TeleportedActivation))]
        for name, tensor in net.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor)
        assert torch.equal(network(image), net(image))


def test_the_model_is_not_touched(net: nn.Module, image: Tensor) -> None:
    before = copy.deepcopy(net.state_dict())
    plan = ft.plan(net, image)
    network = plan.rewrite(plan.sample(0.9, "inter", seed=0))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    mine = {t.data_ptr() for t in net.state_dict().values() if t.numel()}
    assert not mine & {t.data_ptr() for t in network.state_dict().values() if t.numel()}


def test_rewrite_keeps_requires_grad_and_modes(net: nn.Module, image: Tensor) -> None:
    net.a.weight.requires_grad_(False)
    net.n.train()
    network = ft.plan(net, image).rewrite(ft.plan(net, image).identity())
    assert not network.get_parameter("a.weight").requires_grad
    assert network.get_parameter("b.weight").requires_grad
    assert network.get_submodule("n").training
    assert not network.training


@pytest.mark.parametrize("norm_stats", ["fixed", "rescaled"])
def test_composition_is_teleporting_twice(net: nn.Module, image: Tensor, norm_stats: str) -> None:
    """In weights mode the emitted weights fit the class, so they can be teleported again."""
    plan = ft.plan(net, image, mode="weights", norm_stats=norm_stats)
    a = plan.sample(0.9, "inter", exact=True, seed=1)
    b = plan.sample(0.9, "inter", exact=True, seed=2)
    once = copy.deepcopy(net)
    once.load_state_dict(plan.rewrite(b).state_dict())
    twice = ft.plan(once, image, mode="weights", norm_stats=norm_stats)
    assert twice.fingerprint == plan.fingerprint
    left, right = twice.rewrite(a).state_dict(), plan.rewrite(a @ b).state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("norm_stats", ["fixed", "rescaled"])
@pytest.mark.parametrize("on_copy", [False, True])
def test_apply_then_inverse_restores_every_bit(net: nn.Module, image: Tensor, norm_stats: str, on_copy: bool) -> None:
    before, expected = copy.deepcopy(net.state_dict()), net(image)
    plan = ft.plan(net, image, mode="weights", norm_stats=norm_stats)
    target = copy.deepcopy(net) if on_copy else net
    cob = plan.sample(0.9, "inter", exact=True, seed=5)
    assert plan.apply_(cob, target if on_copy else None) is target
    assert not torch.equal(target.a.weight if norm_stats == "rescaled" else target.h.weight,
                           before["a.weight" if norm_stats == "rescaled" else "h.weight"])  # fmt: skip
    assert torch.equal(target(image), expected)
    rewritten = None if not on_copy else plan.rewrite(cob).state_dict()
    if rewritten is not None:
        assert all(torch.equal(v, rewritten[k]) for k, v in target.state_dict().items())
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    plan.apply_(cob.inverse(), target if on_copy else None)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_ten_teleportations_composed(net: nn.Module, image: Tensor) -> None:
    plan = ft.plan(net, image, mode="weights", norm_stats="rescaled")
    expected, before = net(image), copy.deepcopy(net.state_dict())
    total = plan.identity()
    for seed in range(10):
        cob = plan.sample(0.9, "inter", exact=True, seed=seed)
        plan.apply_(cob)
        total = cob @ total
        assert torch.equal(net(image), expected)
    plan.apply_(total.inverse())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_ten_uniform_teleportations(net: nn.Module, image: Tensor) -> None:
    plan = ft.plan(net, image, mode="weights")
    expected = net(image)
    for seed in range(10):
        plan.apply_(plan.sample(0.9, "inter", seed=seed))
    assert ((net(image) - expected).abs().max() / expected.abs().max()) < 1e-12


def test_apply_updates_tied_weights_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.b(self.a(x)))

    model = ft.randomize(Tied())
    x = torch.randn(3, 4)
    expected = model(x)
    plan = ft.plan(model, x, mode="weights")
    plan.apply_(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(model(x), expected)


def test_apply_in_full_mode_is_an_error(net: nn.Module, image: Tensor) -> None:
    plan = ft.plan(net, image)
    with pytest.raises(ft.InputError, match="weights"):
        plan.apply_(plan.identity())


def test_apply_on_another_model_is_an_error(net: nn.Module, image: Tensor) -> None:
    plan = ft.plan(net, image, mode="weights")
    with pytest.raises(ft.ModelError, match="has no parameter"):
        plan.apply_(plan.identity(), nn.Linear(2, 2))
    other = copy.deepcopy(net)
    other.h = nn.Linear(6, 8).double()
    with pytest.raises(ft.ModelError, match="shape"):
        plan.apply_(plan.identity(), other)


def test_a_rejected_apply_changes_nothing(net: nn.Module, image: Tensor) -> None:
    plan = ft.plan(net, image, mode="weights")
    other = copy.deepcopy(net)
    other.o = nn.Linear(9, 4).double()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ft.ModelError):
        plan.apply_(plan.sample(0.9, seed=0), other)
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_weights_mode_loads_into_the_original_class(name: str) -> None:
    size = 224 if "vit" in name else 64
    model = ft.randomize(timm.create_model(name).eval())
    x = torch.randn(2, 3, size, size)
    plan = ft.plan(model, x, mode="weights", norm_stats="rescaled")
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert not [m for m in network.modules() if isinstance(m, (ft.Rescale, ft.TeleportedActivation, ft.Operation))]
    loaded = timm.create_model(name).eval()
    loaded.load_state_dict(network.state_dict(), strict=True)
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
        assert torch.equal(network(x), model(x))
    assert fast == torch.backends.mha.get_fastpath_enabled()
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


# -- teleport, errors ------------------------------------------------------------------------------------------


def test_teleport_is_plan_sample_rewrite(net: nn.Module, image: Tensor) -> None:
    network = ft.teleport(net, image, cob_range=0.7, landscape="inter", seed=4, norm_stats="wrapped")
    plan = ft.plan(net, image, norm_stats="wrapped")
    other = plan.rewrite(plan.sample(0.7, "inter", seed=4))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert torch.equal(network(image), other(image))


@pytest.mark.parametrize(
    "settings", [{"mode": "half"}, {"norm_stats": "free"}, {"mode": "weights", "norm_stats": "wrapped"}]
)
def test_unknown_settings_are_errors(net: nn.Module, image: Tensor, settings: dict[str, str]) -> None:
    with pytest.raises(ft.InputError):
        ft.plan(net, image, **settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(nn.Linear(3, 3)),
        lambda: nn.Sequential(nn.LazyLinear(3)),
        lambda: nn.Linear(3, 3).forward,
    ],
    ids=["scripted", "lazy", "no module"],
)
def test_unusable_models_are_errors(make: Callable[[], Any]) -> None:
    with pytest.raises(ft.ModelError):
        ft.plan(make(), torch.randn(2, 3))


def test_meta_model_cannot_be_rewritten() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    plan = ft.plan(model, torch.randn(2, 3))
    assert plan.num_free == 4
    with pytest.raises(ft.ModelError):
        plan.rewrite(plan.sample(seed=0))


def test_map_of_an_unknown_node_is_an_error(net: nn.Module, image: Tensor) -> None:
    with pytest.raises(ft.InputError, match="no node"):
        ft.plan(net, image).map_of("nothing")


def test_repr(net: nn.Module, image: Tensor) -> None:
    assert repr(ft.plan(net, image)) == "Plan(Net, mode='full', norm_stats='fixed', num_free=18)"


def test_a_model_without_freedom(image: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1)).double()
    plan = ft.plan(model, image)
    assert plan.num_free == 0
    assert plan.moved == 0
    network = plan.rewrite(plan.sample(0.9, "inter", seed=0))
    assert ft.verify(model, network, image).bitwise_equal


def test_a_model_without_parameters(image: Tensor) -> None:
    plan = ft.plan(nn.ReLU(), image)
    assert plan.num_free == 0
    assert plan.moved == 0
    assert torch.equal(plan.rewrite(plan.identity())(image), image.relu())


def test_apply_where_new_tensors_are_made_elsewhere() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3)
    expected, weights = model(x), model[0].weight.clone()
    plan = ft.plan(model, x, mode="weights")
    cob = plan.sample(0.5, exact=True, seed=0)
    with torch.device("meta"):
        plan.apply_(cob)
    assert torch.equal(model(x), expected) and not torch.equal(model[0].weight, weights)


def test_a_plan_is_frozen() -> None:
    plan = ft.plan(nn.Linear(3, 2), torch.randn(1, 3))
    for name in ("mode", "solution", "num_free", "anything"):
        with pytest.raises(AttributeError):
            setattr(plan, name, None)
