"""Feature maps of an image before and after: other features, the same function (paper, Fig. 2)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from fxteleport.models.zoo import suggestion
from fxteleport.passes.domain.cob_map import CobMap
from fxteleport.passes.errors import InputError
from fxteleport.passes.graph.node_info import info
from fxteleport.plan.plan import Plan
from fxteleport.tools.checking.session import Run
from fxteleport.tools.models.request import Loaded
from fxteleport.tools.plots.palette import DIVERGING
from fxteleport.tools.plots.panels import plain, spaced, with_owners, wrapped
from fxteleport.verify import in_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LAYERS, _CHANNELS = 4, 7
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, eq=False)
class Maps:
    """Feature maps of a layer: `before` and `after` [channels, height, width], each channel's number and CoB."""

    layer: str
    channels: list[int]
    before: Tensor
    after: Tensor
    cob: list[float]


def features(done: Run, image: Path | None = None, layers: Sequence[str] = ()) -> Figure:
    """Some channels of some layers before and after, each row of maps with a scale of its own, white at 0.

    Raises:
        InputError: the network takes no image, the image cannot be read, or there is no such layer.
    """
    from matplotlib.figure import Figure

    x = _image_input(done.loaded, image)
    held = _maps(done, x, layers)
    figure = Figure(figsize=(7.6, 0.5 + 2.0 * len(held)))
    sides = figure.add_gridspec(len(held), 2, width_ratios=(1.2, _CHANNELS))
    picture = figure.add_subplot(sides[0, 0])
    picture.imshow(_seen(x[0]), cmap="gray", interpolation="nearest")
    picture.set_title("image" if image else "example input", fontsize=8)
    picture.axis("off")
    for row, maps in enumerate(held):
        grid = sides[row, 1].subgridspec(2, 1, hspace=0)
        below = [f"#{number}: CoB {cob:.2f}" for number, cob in zip(maps.channels, maps.cob, strict=True)]
        for j, (side, values) in enumerate((("before", maps.before), ("after", maps.after))):
            axis = figure.add_subplot(grid[j, 0])
            _row(axis, values, below if side == "after" else [""] * len(below))
            axis.set_ylabel(side, fontsize=8)
            if side == "before":
                axis.set_title(plain(maps.layer), fontsize=8)
    same = "equal to the last bit" if done.report.bitwise_equal else f"within {done.report.max_rel:.1g} of the largest"
    what = "most active channels before and after (orange < 0 < purple)"
    figure.suptitle(wrapped(f"{plain(done.loaded.spec)}: {what}; outputs {same}"), fontsize=9)
    return figure


def _row(axis: Axes, values: Tensor, below: Sequence[str]) -> None:
    """Maps side by side in one image, on one scale; axes of their own would take most of the time to draw."""
    from matplotlib.patches import Rectangle

    limit = float(values.abs().max()) or 1.0
    height, width = values.shape[1:]
    step = width + max(1, width // 20)
    joined = np.full((height, step * len(values) - (step - width)), np.nan, dtype=np.float32)
    for i, value in enumerate(values.numpy()):
        joined[:, i * step : i * step + width] = value
        frame = Rectangle((i * step - 0.5, -0.5), width, height, fill=False, color="#999999", linewidth=0.5)
        axis.add_patch(frame).set_clip_on(False)
    axis.imshow(joined, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    axis.set_xticks([i * step + (width - 1) / 2 for i in range(len(values))], below, fontsize=6.5)
    axis.set_yticks([])
    axis.tick_params(length=0, pad=2)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set_anchor("W")


# -- the maps --------------------------------------------------------------------------------------------


def _maps(done: Run, x: Tensor, layers: Sequence[str]) -> list[Maps]:
    """The first image's maps at the layers asked for, or at some over the whole depth whose features move."""
    tau = done.plan.tau(done.cob).detach()
    names, able = _nodes(done.plan, done.loaded)
    wanted = _wanted(able, names, layers) if layers else _spread_out(done.plan, able, names)
    by_layer: dict[str, Maps] = {}
    for name, before, after in _values(done, x, wanted):
        cob = done.plan.constrained.maps.get(names[name])
        scale = cob.scale(tau) if isinstance(cob, CobMap) else None
        by_layer[name] = _of(before, after, wanted[name], scale, channel_axis(before, cob))
    return [by_layer[n] for n in wanted if n in by_layer]


def _values(done: Run, x: Tensor, wanted: Collection[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Nodes with their values before and after: those that the check has kept, or else both networks run once more."""
    if x is done.loaded.args[0] and set(wanted) <= done.values.keys():
        yield from ((name, *done.values[name]) for name in wanted)
        return
    for value in in_step(done.network, x, *done.loaded.args[1:], **done.loaded.kwargs):
        if value.node in wanted:
            yield value.node, value.original, value.actual


def shown_nodes(plan: Plan, loaded: Loaded) -> Collection[str]:
    """The nodes whose values `features` shows where no layers and no image are asked for; none where it cannot."""
    if plan.norms != "exact":  # the check compares a copy with other epsilons
        return ()
    try:
        require_features(plan, loaded, None, ())
    except InputError:
        return ()
    names, able = _nodes(plan, loaded)
    return _spread_out(plan, able, names).keys()


def _nodes(plan: Plan, loaded: Loaded) -> tuple[dict[str, fx.Node], list[str]]:
    """The graph's nodes by name, and the names of those that have feature maps."""
    names = {n.name: n for n in plan.captured.graph.nodes}
    able = [n for n, node in names.items() if _is_image(info(node).value) and node.op != "placeholder"]
    if not able:
        raise InputError(f"'{loaded.spec}' has no feature maps: no value in it has the shape of images or patches")
    return names, able


def require_features(plan: Plan, loaded: Loaded, image: Path | None, layers: Sequence[str]) -> None:
    """Raise InputError unless the network takes (this) image, and each of these layers has feature maps."""
    _image_input(loaded, image)
    names, able = _nodes(plan, loaded)
    _wanted(able, names, layers)


def _wanted(able: Sequence[str], names: dict[str, Any], layers: Sequence[str]) -> dict[str, str]:
    """Node -> layer: a node by its name, a module by its path (the last value made in it)."""
    wanted: dict[str, str] = {}
    for layer in layers:
        own = [n for n in able if n == layer or _inside(names[n], layer)]
        if not own:
            known = [*able, *with_owners(_path(names[n]) for n in able)]
            raise InputError(f"there is no layer '{layer}' with feature maps{suggestion(layer, known)}")
        wanted[own[-1]] = layer
    return wanted


def _spread_out(plan: Plan, able: Sequence[str], names: dict[str, Any]) -> dict[str, str]:
    """The last value of modules over the whole depth, of those whose features move."""
    kinds = [g.kind != "pinned" for g in plan.groups]
    of = plan.grouping.of
    last: dict[str, str] = {}  # a block's last value is what the block makes
    for name in able:
        cob = plan.constrained.maps.get(names[name])
        groups = [g for s, _ in cob.factors for g in of[s.reshape(-1).numpy()]] if isinstance(cob, CobMap) else []
        if any(g >= 0 and kinds[g] for g in groups):
            path = _path(names[name])
            block = path.rpartition(".")[0] if names[name].op == "call_module" else path
            last[block or path or name] = name
    ends = {name: layer for layer, name in last.items()} or {able[-1]: able[-1]}
    order = [n for n in able if n in ends]
    return {order[i]: ends[order[i]] for i in spaced(len(order), _LAYERS)}


def _path(node: Any) -> str:
    return str(node.target if node.op == "call_module" else info(node).path)


def _inside(node: Any, layer: str) -> bool:
    path = _path(node)
    return path == layer or path.startswith(f"{layer}.")


def _is_image(value: Any) -> bool:
    """A feature map, its channels first or last, or [batch, tokens, channels] with a square number of patches."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    if value.ndim == 4:
        return min(value.shape[2:]) > 1 or min(value.shape[1:3]) > 1
    return value.ndim == 3 and _side(value.shape[1]) > 2 and value.shape[2] > 1


def _side(tokens: int) -> int:
    """The side of a square of patches that some leading tokens (class, registers) may precede; 0 for none."""
    side = math.isqrt(tokens)
    return side if tokens - side * side in (0, 1, 2, 4, 5) else 0


def channel_axis(value: Tensor, cob: object) -> int:
    """The axis of a value's channels.

    It is the one along which its CoB varies. Where none does it follows from the shape: height and width are next to
    each other, and equal for most inputs.
    """
    if value.ndim == 3:
        return 2
    varies = [any(s.shape[axis] > 1 for s, _ in cob.factors) if isinstance(cob, CobMap) else False for axis in (1, 3)]
    if varies[0] != varies[1]:
        return 1 if varies[0] else 3
    return 3 if value.shape[1] == value.shape[2] != value.shape[3] else 1


def _of(original: Tensor, actual: Tensor, layer: str, scale: Tensor | None, axis: int) -> Maps:
    full = torch.ones(()) if scale is None else scale
    parts = [original, actual, full.to(original.device).expand(original.shape)]
    # Copies: the networks may write into their values later.
    before, after, cob = (_channels_first(t[0], axis - 1).detach().to("cpu", torch.float32, copy=True) for t in parts)
    active = before.flatten(1).std(1).nan_to_num().topk(min(_CHANNELS, len(before))).indices.sort().values
    return Maps(layer, active.tolist(), before[active], after[active], cob[active].flatten(1)[:, 0].tolist())


def _channels_first(x: Tensor, axis: int) -> Tensor:
    if x.ndim == 3:
        return x.movedim(axis, 0)
    side = _side(len(x))
    return x[len(x) - side * side :].T.reshape(-1, side, side)


# -- the image -------------------------------------------------------------------------------------------


def _image_input(loaded: Loaded, image: Path | None) -> Tensor:
    """The network's first input, with the image in place of each of its images."""
    x = loaded.args[0] if loaded.args else None
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] not in (1, 3) or not x.is_floating_point():
        raise InputError(f"'{loaded.spec}' takes no image: features need an input of 1 or 3 channels")
    if image is None:
        return x
    return _read(image, x, loaded).expand_as(x).contiguous()


def _read(image: Path, x: Tensor, loaded: Loaded) -> Tensor:
    """An image as the network takes it: resized, and normalised as its weights were trained with."""
    from torchvision.transforms import functional

    from fxteleport.tools.models.images import read_picture

    picture = read_picture(image, x.shape[1])
    size = [int(n) for n in x.shape[2:]]
    edge = functional.resize(picture, max(size), antialias=True)  # the shorter side
    values = functional.to_tensor(functional.center_crop(edge, size))
    trained = getattr(loaded.model, "pretrained_cfg", None) or {}
    mean, std = (trained.get(k) or d for k, d in zip(("mean", "std"), _IMAGENET, strict=True))
    if x.shape[1] == 3 and len(mean) == 3:
        values = functional.normalize(values, list(mean), list(std))
    normal: Tensor = values[None].to(x)
    return normal


def _seen(x: Tensor) -> Any:
    """An input as a picture: each value between the input's smallest and largest."""
    x = x.detach().float().cpu()
    x = (x - x.min()) / (x.max() - x.min()).clamp_min(1e-12)
    return x[0].numpy() if len(x) == 1 else x.permute(1, 2, 0).numpy()
