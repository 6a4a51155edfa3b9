# %% [markdown]
# # First teleportation, of a model of your own
#
# You need no download and no GPU. First a small network with a residual sum, a norm and two kinds of activation. It is
# plain PyTorch and does not use fxteleport.

# %%
import matplotlib.pyplot as plt
import torch
from torch import nn

import fxteleport as ft
from fxteleport.tools.plots.palette import AFTER, BEFORE

torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x).relu()))


model, x = Net().eval(), torch.randn(16, 8)

# %% [markdown]
# ## What may move
#
# `ft.plan` traces the model and finds which neurons must share a change of basis (CoB). It reads no weight.

# %%
plan = ft.plan(model, x)
print(f"{plan.num_free} free values; {plan.moved:.0%} of the parameters can move")
for group in plan.groups:
    made_by = ", ".join(member.node for member in group.members)
    print(f"#{group.id:<2} {group.kind:6} {group.size:4}  {made_by}  {group.why}")

# %% [markdown]
# The residual stream is one group: the outputs of `stem` and of each block are added, so they must have the same CoB.
# Each hidden layer and each norm's output is a group of its own. The network's output is pinned to 1: it must not
# change.
#
# ## Teleport
#
# A CoB is a number for every free value. `cob_range` and `landscape` choose the distribution it is drawn from; here
# half of the values are negative. `exact=True` rounds magnitudes to powers of two, which multiply without any rounding
# error.

# %%
cob = plan.sample(cob_range=0.9, landscape="inter", exact=True, seed=0)
network = plan.rewrite(cob)
print(cob)

# %% [markdown]
# `network` is a new module with parameters of the same names and shapes. Your model was not touched.
#
# ## Check it
#
# `ft.verify` compares both networks at every node, and every parameter with the original's times its factor. As the CoB
# consists of powers of two, "equal" means to the last bit.

# %%
report = ft.verify(model, network, x)
print(f"{report.verdict}, bitwise: {report.bitwise_equal}, at {report.nodes} nodes")
before, after = model.stem.weight, network.get_parameter("stem.weight")
print(f"weights that are still the same: {(before == after).float().mean():.0%} of stem.weight")
with torch.no_grad():
    print("largest change of an output:", (network(x) - model(x)).abs().max().item())

# %% [markdown]
# Can the check fail? Change one weight, and the report names the first node that differs.

# %%
with torch.no_grad():
    network.get_parameter("blocks.1.up.weight")[0, 0] += 1
report = ft.verify(model, network, x)
print(report.verdict, "- first at", report.first_difference.node)

# %% [markdown]
# ## Plot it
#
# The weights have changed; the outputs have not.

# %%
network = plan.rewrite(cob)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", num="Weights and outputs of both")
for net, colour, label in ((model, BEFORE, "original"), (network, AFTER, "teleported")):
    weights = net.get_parameter("blocks.0.up.weight").detach().flatten()
    left.hist(weights, bins=61, range=(-0.7, 0.7), histtype="step", color=colour, label=label)
left.set(title="blocks.0.up.weight", xlabel="weight", ylabel="count")
left.legend()
with torch.no_grad():
    right.plot(model(x).flatten(), network(x).flatten(), ".", color=AFTER)
right.axline((0, 0), slope=1, color=BEFORE, linewidth=0.8)
right.set(title="outputs", xlabel="original", ylabel="teleported")

# %% [markdown]
# ## Next
#
# - Your own model has other inputs? [My own model](../howto/my-model.md).
# - `fxteleport inspect FILE.py:FACTORY` draws what was printed above as a tree: [look inside](../inspect.md).
# - [Train, save and resume](training.md), [align a checkpoint](aligning.md), [a landscape](landscape.md).
# - Why it works: [the method](../method.md).
