"""Draw docs/figures/teleportation.png: one network at two places in weight space, with one output.

python docs/figures/teleportation.py
"""

from pathlib import Path

import matplotlib
import timm
import torch

import fxteleport as ft
from fxteleport.tools.plots.palette import AFTER, BEFORE

matplotlib.use("Agg")
import matplotlib.pyplot as plt

torch.manual_seed(0)
model = timm.create_model("resnet18").eval()
x = torch.randn(8, 3, 224, 224)
plan = ft.plan(model, x)
cob = plan.sample(cob_range=0.9, landscape="inter", seed=0)
network = plan.rewrite(cob)
with torch.no_grad():
    before, after = model(x), network(x)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
name = "layer2.0.conv1.weight"
bins = torch.linspace(-0.15, 0.15, 61).tolist()
for net, colour, label in ((model, BEFORE, "original"), (network, AFTER, "teleported")):
    weight = net.get_parameter(name).detach().flatten().numpy()
    left.hist(weight, bins=bins, histtype="step", linewidth=1.6, color=colour, label=label)
left.set(title=f"weights of {name[:-7]}", xlabel="weight", ylabel="count")
left.set_xticks([-0.1, 0, 0.1])
left.legend(frameon=False)
middle.hist(cob.values.numpy(), bins=30, color=AFTER)
middle.set(title=f"{plan.num_free} free CoB values", xlabel="change of basis", ylabel="count")
right.plot(before.flatten(), after.flatten(), ".", color=AFTER, markersize=2)
low, high = before.min(), before.max()
right.plot([low, high], [low, high], color=BEFORE, linewidth=0.8)
gap = (after - before).abs().max()
right.set(title=f"8000 logits: largest gap {gap:.0e}", xlabel="original", ylabel="teleported")
for axes in (left, middle, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)
