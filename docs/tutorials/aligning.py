# %% [markdown]
# # Align a checkpoint
#
# Two checkpoints may compute nearly the same function with very different weights. If rescaling is the reason,
# `ft.align` finds it. We build such a pair: a network, and a copy that is rescaled and then trained for a few more
# steps.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import fxteleport as ft
from fxteleport.tools.plots.palette import AFTER, BEFORE

torch.manual_seed(0)
x = torch.randn(512, 16)
y = (3 * x[:, :4] * x[:, 4:8] + torch.randn(512, 4)).argmax(1)  # nothing that a net gets right everywhere


def fitted(model, steps, lr):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(16, 48), nn.Linear(48, 48), nn.Linear(48, 4)

    def forward(self, x):
        return self.third(self.second(self.first(x).tanh()).relu())


a = fitted(Net(), 80, 0.01)
plan = ft.plan(a, x, mode="weights")  # the result's state dict fits the class
b = Net()
b.load_state_dict(plan.rewrite(plan.sample(cob_range=0.9, landscape="inter", seed=3)).state_dict())
fitted(b, 20, 1e-4)  # and now it is no exact copy any more

# %% [markdown]
# (tanh allows a change of sign, ReLU one of magnitude.) Both networks have about the same accuracy, their weights are
# far apart, and the average of their weights is another function.


# %%
def distance(u, v):
    return {n: ((p - v.get_parameter(n)).norm() / v.get_parameter(n).norm()).item() for n, p in u.named_parameters()}


def middle(u, v):
    mean = Net()
    mean.load_state_dict({n: (p + v.get_parameter(n)) / 2 for n, p in u.named_parameters()})
    return mean


@torch.no_grad()
def accuracy(model):
    return (model(x).argmax(1) == y).float().mean().item()


before = distance(a, b)
print(f"relative distance of the weights: {max(before.values()):.2f} at most")
print(f"accuracies: {accuracy(a):.3f} and {accuracy(b):.3f}; of the mean of both: {accuracy(middle(a, b)):.3f}")

# %% [markdown]
# ## Align
#
# `found.cob` is the CoB that brings the weights of `a` nearest to those of `b`. `exact` is True if `b` is a rescaled
# `a` and nothing else; here `b` was trained further, so it is False.

# %%
found = ft.align(plan, a, b)
print(f"distance {found.before:.3f} before, {found.after:.3f} after; exact: {found.exact}")

# %% [markdown]
# Apply it to `a`. The function of `a` stays the same, and its weights can be compared with those of `b`, or averaged.

# %%
aligned = Net()
aligned.load_state_dict(plan.rewrite(found.cob).state_dict())
print("same function:", ft.verify(a, aligned, x).passed)
after = distance(aligned, b)
print(f"relative distance of the weights: {max(after.values()):.2f} at most")
print(f"accuracy of the mean: {accuracy(middle(aligned, b)):.3f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", num="Distances, and the line between")
places = range(len(before))
left.barh([p + 0.2 for p in places], list(before.values()), 0.4, color=BEFORE, label="before")
left.barh([p - 0.2 for p in places], list(after.values()), 0.4, color=AFTER, label="aligned")
left.set_yticks(places, list(before))
left.invert_yaxis()
left.set(xlabel="relative distance to b", xscale="log")
left.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def loss(net):
    return F.cross_entropy(net(x), y)


ends, alphas = ft.curvature.trainable(b), [i / 20 for i in range(21)]
for net, colour, label in ((a, BEFORE, "from a"), (aligned, AFTER, "from a, aligned")):
    at = ft.curvature.at(b, loss)
    right.plot(alphas, ft.landscapes.line(at, ft.curvature.trainable(net), ends, alphas), color=colour, label=label)
right.set(xlabel="on the line to b", ylabel="loss")
right.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)

# %% [markdown]
# The barrier on the line between the checkpoints came from rescaling alone: after alignment it is gone.
#
# Alignment by rescaling does not permute neurons. Two networks that were trained from different seeds differ by a
# permutation as well: the distance then stays large, and `found.after` says so.
#
# ## Next
#
# - [How to align](../howto/align.md) checkpoints from files.
# - What `Alignment` has: [the reference](../api.md#align-two-networks).
