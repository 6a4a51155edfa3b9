# %% [markdown]
# # A landscape
#
# A teleported network is the same function at another place in weight space. The loss there is the same; the loss
# *around* it is not. This tutorial shows the difference, as a picture and as numbers.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import fxteleport as ft
from fxteleport.tools.plots.palette import SURFACE

torch.manual_seed(0)
x = torch.randn(256, 2)
y = (x[:, 0] * x[:, 1] > 0).long()  # the four quadrants, two classes
model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(60):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
model.eval()


def loss(net):
    return F.cross_entropy(net(x), y)


# %% [markdown]
# ## Two points
#
# The trained network, and the same network with a CoB drawn far from 1.

# %%
plan = ft.plan(model, x)
network = plan.rewrite(plan.sample(cob_range=1.5, landscape="log", seed=0))
print(ft.verify(model, network, x).verdict, "function")
print(f"loss {loss(model).item():.4f} and {loss(network).item():.4f}")

# %% [markdown]
# ## The loss around them
#
# `ft.landscapes.surface` takes the loss on a plane: the weights plus `x` times one random direction plus `y` times
# another.
# Directions are *not* filter-normalised here, so that a step has the same length at both points.

# %%
steps = [0.6 * i / 12 for i in range(-12, 13)]
surfaces = []
for net in (model, network):
    weights = ft.curvature.trainable(net)
    first, second = (ft.landscapes.random_direction(weights, seed, normalize=False) for seed in (1, 2))
    surfaces.append(ft.landscapes.surface(ft.curvature.at(net, loss), weights, first, second, steps, steps))

figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained", sharey=True, num="The loss around two places")
levels = torch.logspace(-2.5, 1.5, 17).tolist()
for axis, surface, name in zip(axes, surfaces, ("trained", "teleported"), strict=True):
    drawn = axis.contourf(steps, steps, surface.clamp_min(levels[0]), levels, norm="log", cmap=SURFACE, extend="max")
    axis.plot(0, 0, "s", markersize=7, color="white", markeredgecolor="black")
    axis.set(title=name, aspect="equal", xlabel="first direction")
axes[0].set_ylabel("second direction")
bar = figure.colorbar(drawn, ax=axes, label="loss", ticks=[0.01, 0.1, 1, 10])

# %% [markdown]
# The square marks the network: the loss there is the same in both pictures. The distance to the steep walls is not.
#
# ## As a number
#
# The largest eigenvalue of the Hessian is the curvature of the steepest direction.

# %%
for net, name in ((model, "trained"), (network, "teleported")):
    value, _ = ft.curvature.top_eigenvalue(ft.curvature.at(net, loss), ft.curvature.trainable(net))
    print(f"{name:10} largest curvature {value:9.2f}")

# %% [markdown]
# The same without building the network: a *point* is a differentiable function of the CoB. So a CoB can be optimised:
# here for the smallest norm of the weights, which gives the *balanced* network.

# %%
found = ft.optimize(plan, plan.identity(), ft.objectives.weight_norm, steps=100)
balanced = plan.at(found.cob)
value, _ = ft.curvature.top_eigenvalue(ft.curvature.around(balanced, loss), balanced.weights)
print(f"weight norm {found.history[0]:.2f} before, {found.value:.2f} after; largest curvature {value:.2f}")

# %% [markdown]
# Flatness that a rescaling changes says nothing about the function: compare networks at a chosen place of their orbit
# (balanced, say), or by a measure that rescaling leaves alone.
#
# ## Next
#
# - Objectives, points, curvature: [the reference](../api.md#points-the-teleported-landscape-without-teleporting).
# - The paper's landscape experiments: [experiments](../experiments.md), [results](../paper.md).
