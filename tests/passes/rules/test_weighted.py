"""Weighted: in and out are free by channel; positions that share a weight share the CoB."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxteleport as ft


class Seen(nn.Module):
    """A layer behind a change of shape."""

    def __init__(self, before: Callable[[Tensor], Tensor], layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer = before, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.before(x))


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def line(x: Tensor) -> Tensor:
    return x.flatten(2)


def cube(x: Tensor) -> Tensor:
    return x.unsqueeze(-1)


# name -> layer, its number of outputs: free are the stem's 8 and these
LAYERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "Linear": (lambda: Seen(last, nn.Linear(8, 5)), 5),
    "Linear without bias": (lambda: Seen(last, nn.Linear(8, 5, bias=False)), 5),
    "Conv2d": (lambda: nn.Conv2d(8, 6, 3, padding=1), 6),
    "strided": (lambda: nn.Conv2d(8, 6, 2, stride=2), 6),
    "dilated": (lambda: nn.Conv2d(8, 6, 2, dilation=2), 6),
    "same": (lambda: nn.Conv2d(8, 6, 3, padding="same"), 6),
    "circular": (lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular"), 6),
    "reflect": (lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"), 6),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4), 12),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), 8),
    "depthwise multiplied": (lambda: nn.Conv2d(8, 16, 3, groups=8, bias=False), 16),
    "one output": (lambda: nn.Conv2d(8, 1, 1), 1),
    "Conv1d": (lambda: Seen(line, nn.Conv1d(8, 6, 3)), 6),
    "Conv3d": (lambda: Seen(cube, nn.Conv3d(8, 6, (3, 3, 1), groups=2)), 6),
    "ConvTranspose1d": (lambda: Seen(line, nn.ConvTranspose1d(8, 6, 3, stride=2, groups=2)), 6),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(8, 6, 2, stride=2), 6),
    "ConvTranspose2d grouped": (lambda: nn.ConvTranspose2d(8, 12, 3, stride=2, output_padding=1, groups=4), 12),
    "ConvTranspose2d depthwise": (lambda: nn.ConvTranspose2d(8, 8, 2, groups=8), 8),
    "ConvTranspose3d": (lambda: Seen(cube, nn.ConvTranspose3d(8, 6, 2, groups=2)), 6),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, check_operation: Callable[..., None]) -> None:
    build, out = LAYERS[name]
    check_operation(build(), full=8 + out, weights=8 + out)


class Functional(nn.Module):
    """A weight that is used through a functional call, after it was changed in the graph."""

    def __init__(self, fn: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.weight, self.fn = nn.Parameter(torch.randn(shape)), fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x, self.weight)


FUNCTIONAL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "linear": (lambda: Functional(lambda x, w: F.linear(last(x), w), 5, 8), 5),
    "linear transposed": (lambda: Functional(lambda x, w: F.linear(last(x), w.t()), 8, 5), 5),
    "matmul": (lambda: Functional(lambda x, w: last(x) @ w, 8, 5), 5),
    "conv2d": (lambda: Functional(lambda x, w: F.conv2d(x, w, groups=2), 6, 4, 1, 1), 6),
    "conv2d of a part": (lambda: Functional(lambda x, w: F.conv2d(x, w[:6]), 9, 8, 1, 1), 9),  # three are unused
    "conv2d scaled": (lambda: Functional(lambda x, w: F.conv2d(x, w * 0.5), 6, 8, 1, 1), 6),
    "conv_transpose2d": (lambda: Functional(lambda x, w: F.conv_transpose2d(x, w), 8, 6, 2, 2), 6),
    "einsum": (lambda: Functional(lambda x, w: torch.einsum("bchw,dc->bdhw", x, w), 5, 8), 5),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_functional_weights(name: str, check_operation: Callable[..., None]) -> None:
    build, out = FUNCTIONAL[name]
    check_operation(build(), full=8 + out, weights=8 + out)


def test_weights_used_twice(check_operation: Callable[..., None]) -> None:
    check_operation(Functional(lambda x, w: F.linear(F.linear(last(x), w), w), 8, 8), full=None)
    check_operation(Functional(lambda x, w: F.linear(last(x), w + w.t()), 8, 8), full=None)
    check_operation(Functional(lambda x, w: F.linear(F.linear(last(x), w), w.t()), 4, 8), full=None)


def test_embedding_bag_and_padding_index_are_sound() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.bag = nn.Embedding(9, 8, padding_idx=0), nn.EmbeddingBag(9, 8)
            self.capped, self.head = nn.Embedding(9, 8, max_norm=1.0), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.words(x).mean(1), self.bag(x), self.capped(x).sum(1)], 1))

    model, x = ft.randomize(Words().eval()), torch.arange(8).view(2, 4)
    model(x)  # the capped table renormalises itself once
    plan = ft.plan(model, x)
    assert plan.num_free == 16  # of the words and the bags; rows that are renormalised stay
    assert any(o.node == "capped" and "it renormalises its rows" in o.why for o in plan.opaque)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    assert torch.equal(network(x), model(x))


def test_positions_with_cobs_of_their_own_meet_at_a_shared_weight(check_operation: Callable[..., None]) -> None:
    """Channels moved to positions share one CoB when a convolution runs over them."""
    check_operation(Seen(lambda x: x.transpose(1, 2), nn.Conv2d(4, 6, 1)), full=1 + 6, weights=1 + 6)
    check_operation(Seen(lambda x: x.permute(0, 2, 3, 1).unsqueeze(1), nn.Conv3d(1, 2, 1)), full=1 + 2)


def test_a_linear_without_bias_over_positions_passes_their_cobs(check_operation: Callable[..., None]) -> None:
    """Token mixing: channels are positions of the weight, and each keeps its own CoB."""
    check_operation(Seen(lambda x: x.flatten(2), nn.Linear(16, 5, bias=False)), full=8 + 5, weights=None)


def test_bilinear_layer(check_operation: Callable[..., None]) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Bilinear(8, 8, 5)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.layer(last(x), last(y))

    check_operation(Both(), full=21, weights=21, streams=2)


@pytest.mark.parametrize(
    "settings",
    [{}, {"bias": False}, {"kdim": 6, "vdim": 5}, {"add_bias_kv": True}, {"add_zero_attn": True}],
    ids=str,
)
def test_multihead_attention(settings: dict[str, bool | int]) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(4, settings.get(n, 8)) for n in ("embed", "kdim", "vdim"))
            self.attention, self.head = nn.MultiheadAttention(8, 2, **settings), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out, _ = self.attention(torch.relu(self.q(x)), torch.relu(self.k(x)), torch.relu(self.v(x)))
            return self.head(out)

    model, x = ft.randomize(Attention().eval()), torch.randn(5, 2, 4)
    for mode in ("full", "weights"):
        plan = ft.plan(model, x, mode=mode)
        if "kdim" in settings:  # three inputs with CoBs of their own: 8 queries, 6 keys, 5 values
            assert plan.num_free == 8 + 6 + 5 + 8 + 8 + 8
        else:  # one weight projects all three, so they share what goes in
            assert plan.num_free == 8 + 8 + 8 + 8
        assert not plan.opaque
        report = ft.verify(model, plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0)), x)
        assert report.passed, report.first_difference


class OwnAttention(nn.MultiheadAttention):
    """A subclass, whose forward is torch's Python code."""

    def forward(self, *args: Tensor, **settings: bool) -> tuple[Tensor, Tensor | None]:
        return super().forward(*args, **settings)


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"kdim": 6, "vdim": 5}, {"add_bias_kv": True}], ids=str)
def test_multihead_attention_as_a_function(
    settings: dict[str, bool | int], assert_exact: Callable[..., ft.Plan]
) -> None:
    """As free as the layer is."""

    class Attention(nn.Module):
        def __init__(self, kind: type[nn.MultiheadAttention]) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(4, settings.get(n, 8)) for n in ("embed", "kdim", "vdim"))
            self.attention, self.head = kind(8, 2, **settings), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out, _ = self.attention(torch.relu(self.q(x)), torch.relu(self.k(x)), torch.relu(self.v(x)))
            return self.head(out)

    x = torch.randn(5, 2, 4)
    for mode in ("full", "weights"):
        free = ft.plan(Attention(nn.MultiheadAttention), x, mode=mode).num_free
        plan = assert_exact(Attention(OwnAttention), x, mode=mode)
        assert plan.num_free == free
        assert not plan.opaque


def test_an_attention_pool(assert_exact: Callable[..., ft.Plan]) -> None:
    """CLIP's: weights of linear layers, and more or fewer channels behind it than before; any number of samples."""

    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(3, 8)
            self.q, self.k, self.v, self.out = (nn.Linear(8, n) for n in (8, 8, 8, 6))
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = torch.cat([x.mean(0, keepdim=True), x])
            x, _ = F.multi_head_attention_forward(
                query=x[:1], key=x, value=x, embed_dim_to_check=8, num_heads=2, in_proj_weight=None,
                in_proj_bias=torch.cat([self.q.bias, self.k.bias, self.v.bias]), bias_k=None, bias_v=None,
                add_zero_attn=False, dropout_p=0.0, out_proj_weight=self.out.weight, out_proj_bias=self.out.bias,
                training=self.training, need_weights=False, use_separate_proj_weight=True,
                q_proj_weight=self.q.weight, k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
            )  # fmt: skip
            return self.head(torch.relu(x.squeeze(0)))

    model, x = Pool(), torch.randn(5, 2, 3)
    for mode in ("full", "weights"):
        plan = assert_exact(model, x, mode=mode)
        assert plan.num_free == 8 + 8 + 8 + 6
        assert not plan.opaque
        network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
        for other in (torch.randn(5, 3, 3), torch.randn(7, 2, 3)):
            assert torch.equal(network(other), model(other))
        assert torch.equal(network.train()(x), model.train()(x))


def test_keys_that_are_given_as_they_are_pin(assert_exact: Callable[..., ft.Plan]) -> None:
    class Static(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out = nn.Linear(3, 8), nn.Linear(8, 8)
            self.into = nn.Parameter(torch.randn(24, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return F.multi_head_attention_forward(
                x, x, x, 8, 2, self.into, None, None, None, False, 0.0, self.out.weight, self.out.bias, False,
                need_weights=False, static_k=torch.randn(4, 5, 4),
            )[0]  # fmt: skip

    assert_exact(Static(), torch.randn(5, 2, 3), at_least=0)


def test_a_mask_of_attention_is_pinned(assert_exact: Callable[..., ft.Plan]) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.mask, self.out = nn.Linear(4, 8), nn.Linear(4, 5), nn.Linear(8, 3)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x, mask = self.x(x), self.mask(x)[0]
            return self.out(self.attention(x, x, x, attn_mask=mask, need_weights=False)[0])

    plan = assert_exact(Masked(), torch.randn(2, 5, 4))
    assert plan.num_free == 8 * 4 and not plan.opaque


def test_one_projection_of_zeros_and_of_other_values(assert_exact: Callable[..., ft.Plan]) -> None:
    """A query with zeros among its features says nothing about the weights that meet the key's."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(4, n) for n in (6, 8, 8, 8))
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x, _ = self.attention(F.pad(self.q(x), (0, 2)), self.k(x), self.v(x))
            return self.head(x)

    for mode in ("full", "weights"):
        plan = assert_exact(Padded(), torch.randn(2, 5, 4), mode=mode)
        assert plan.num_free == 8 * 4 and not plan.opaque


def test_attention_gives_its_weights(assert_exact: Callable[..., ft.Plan]) -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.out, self.seen = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(5, 3)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.x(x)
            x, weights = self.attention(x, x, x)
            return self.out(x) + self.seen(weights)

    plan = assert_exact(Weights(), torch.randn(2, 5, 4))
    assert plan.num_free == 8 * 4 and not plan.opaque


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped matrix product")
def test_experts_share_what_goes_in_and_out(assert_exact: Callable[..., ft.Plan]) -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out = nn.Linear(6, 8), nn.Linear(16, 3)
            self.experts = nn.Parameter(torch.randn(3, 8, 16))

        def forward(self, x: Tensor, offs: Tensor) -> Tensor:
            return self.out(torch.relu(F.grouped_mm(self.stem(x), self.experts, offs=offs)))

    offs = torch.tensor([2, 5, 8], dtype=torch.int32)
    plan = assert_exact(Experts().bfloat16(), torch.randn(8, 6).bfloat16(), offs)
    assert plan.num_free == 8 + 16
    assert not plan.opaque


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped matrix product")
def test_other_grouped_products_stay(assert_exact: Callable[..., ft.Plan]) -> None:
    class Batches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.out, self.last = nn.Linear(6, 8), nn.Linear(16, 4), nn.Linear(4, 3)
            self.experts = nn.Parameter(torch.randn(3, 8, 16))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.out(F.grouped_mm(self.stem(x), self.experts)))

    plan = assert_exact(Batches().bfloat16(), torch.randn(3, 8, 6).bfloat16())
    assert plan.num_free == 4 and "rows in groups" in plan.opaque[0].why


def test_a_weight_that_meets_zeros_may_meet_others_next(check_operation: Callable[..., None]) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixed = nn.Conv2d(16, 8, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            first = self.mixed(torch.cat([x, torch.zeros_like(x)], 1))
            return first + self.mixed(torch.cat([x, y], 1))

    check_operation(Twice(), full=16, weights=16, streams=2)  # y has the CoB 1


def test_weights_of_zeros_are_not_counted(check_operation: Callable[..., None]) -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixed = nn.Conv2d(16, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([x, torch.zeros_like(x)], 1)
            return self.mixed(torch.cat([x, torch.zeros_like(x[:, :, :1])], 2))[:, :, :4]

    check_operation(Padded(), full=16, weights=16)


class Bags(nn.Module):
    """Bags of two rows, whose weights the network may decide, added to channels."""

    def __init__(self, mode: str, functional: bool, weighted: bool) -> None:
        super().__init__()
        self.table, self.functional, self.weighted = nn.EmbeddingBag(5, 8, mode=mode), functional, weighted

    def forward(self, x: Tensor) -> Tensor:
        ids = torch.tensor([[0, 1], [4, 1]])
        weights = x[:, :2, 0, 0] if self.weighted else None
        if self.functional:
            mode = self.table.mode
            return x[..., 0, 0] + F.embedding_bag(ids, self.table.weight, mode=mode, per_sample_weights=weights)
        return x[..., 0, 0] + self.table(ids, per_sample_weights=weights)


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize(
    ("mode", "weighted", "free"), [("mean", False, 8), ("sum", False, 8), ("max", False, 8), ("sum", True, 6)]
)
def test_bags_have_the_columns_of_their_rows(
    mode: str, functional: bool, weighted: bool, free: int, check_operation: Callable[..., None]
) -> None:
    check_operation(Bags(mode, functional, weighted), free, free)


class Experts(nn.Module):
    """Rows in groups, a gated layer for each group: a mixture of experts as transformers writes it."""

    def __init__(self, experts: int = 3, width: int = 8, inner: int = 16) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, width), nn.Linear(width, 2)
        self.into = nn.Parameter(torch.randn(experts, 2 * inner, width))
        self.back = nn.Parameter(torch.randn(experts, width, inner))

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        rows = self.stem(x)
        gate, up = F.grouped_mm(rows, self.into.transpose(-2, -1), offs=ends).chunk(2, dim=-1)
        return self.head(F.grouped_mm(F.silu(gate) * up, self.back.transpose(-2, -1), offs=ends))


@pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped matrix product")
def test_experts_have_their_neurons_free_at_any_number_of_rows() -> None:
    torch.manual_seed(0)
    net = Experts().eval().bfloat16()
    ends = torch.tensor([1, 3, 6], dtype=torch.int32)
    plan = ft.plan(net, torch.randn(6, 4).bfloat16(), ends)
    assert plan.num_free == 8 + 16 + 16 + 8  # stem, gate, up, what goes back
    twin = plan.rewrite(plan.sample(exact=True, seed=0))
    for x, at in ((torch.randn(6, 4), ends), (torch.randn(9, 4), ends + 3)):
        assert torch.equal(twin(x.bfloat16(), at), net(x.bfloat16(), at))
