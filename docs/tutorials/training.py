# %% [markdown]
# # Train, save and resume
#
# Teleporting in the middle of training moves the weights to a point with the same loss and another gradient. This
# tutorial trains a small classifier, teleports it once, saves it, and resumes training from the file.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import fxteleport as ft
from fxteleport.tools.plots.palette import AFTER, BEFORE, MIXED

torch.manual_seed(0)
angle = torch.rand(512) * 5
y = torch.arange(512) % 3
turned = angle + y * 2 * torch.pi / 3
x = torch.stack([turned.cos(), turned.sin()], 1) * angle[:, None] / 2 + 0.05 * torch.randn(512, 2)  # a spiral of 3 arms


def fresh():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))


# %% [markdown]
# ## A network that can teleport
#
# `ft.Teleportable` holds your model. Its parameters stay the same objects, so any optimiser keeps working;
# `ft.Teleport` chooses when and how far. It also scales the optimiser's state (momentum scales as the gradient does).


# %%
def training(model, at):
    net = ft.Teleportable(model, x)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return net, optimizer, ft.Teleport(net, optimizer, at=at, cob_range=0.9, landscape="intra", seed=0)


def run(net, optimizer, teleport, epochs):
    losses = []
    for epoch in epochs:
        teleport(epoch)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
plain = run(*training(fresh(), at=[]), range(300))
net, optimizer, teleport = training(fresh(), at=[20])
moved = run(net, optimizer, teleport, range(150))
print("equal up to the epoch of the teleportation:", plain[:20] == moved[:20])
print(f"loss at epoch 20, the function being the same: {plain[20]:.4f} and {moved[20]:.4f}")
print(f"change in the step after it: {plain[21] - plain[20]:.4f} and {moved[21] - moved[20]:.4f}")

# %% [markdown]
# ## Save
#
# A `Teleportable`'s state dict has the total CoB beside the parameters. So `torch.save` and `torch.load` suffice.

# %%
import io

file = io.BytesIO()  # or a path
torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
print("beside the parameters:", [k for k in net.state_dict() if not k.endswith(("weight", "bias"))])

# %% [markdown]
# ## Resume
#
# Build everything as before, and load. Training continues exactly as without the interruption, to the last bit.

# %%
file.seek(0)
saved = torch.load(file)
again, its_optimizer, its_teleport = training(fresh(), at=[20])
again.load_state_dict(saved["net"])
its_optimizer.load_state_dict(saved["optimizer"])
resumed = run(again, its_optimizer, its_teleport, range(150, 300))
moved += run(net, optimizer, teleport, range(150, 300))
print("resumed as if never stopped:", resumed == moved[150:])

# %% [markdown]
# To give the network to someone without fxteleport, in its original class, teleport back. Its state dict is then an
# ordinary one.

# %%
net.teleport_(net.cob.inverse())
ordinary = fresh()
ordinary.load_state_dict(dict(net.network.named_parameters()))
print("same outputs as the teleported network:", torch.allclose(ordinary(x), again(x), atol=1e-4))

# %%
figure, axis = plt.subplots(figsize=(7, 3), layout="constrained", num="Training loss with and without a teleportation")
axis.plot(plain, color=BEFORE, label="plain")
axis.plot(moved, color=AFTER, label="teleported once")
for epoch, what in ((20, "teleportation"), (150, "saved, resumed")):
    axis.axvline(epoch, color=MIXED, linewidth=0.8, linestyle=":")
    axis.annotate(what, (epoch, max(plain)), xytext=(4, -4), textcoords="offset points", fontsize=8, color=MIXED)
axis.set(xlabel="epoch", ylabel="training loss")
axis.legend(loc="upper right")

# %% [markdown]
# One run of one small network shows neither a speed-up nor its absence: [the paper, reproduced](../paper.md) has the
# statistics.
#
# ## Next
#
# - With Lightning: `Trainer(callbacks=[ft.lightning_callback(teleport)])`, and [other schedules](../howto/training.md).
# - [A landscape](landscape.md) shows what the teleportation did to the loss around the weights.
