"""A callback that teleports a network in training, on a schedule; for a plain loop, and for Lightning.

net = ft.Teleportable(model, example)
teleport = ft.Teleport(net, optimizer, at=[10], cob_range=0.9, landscape="inter")
for epoch in range(100):
    teleport(epoch)          # before the epoch: does nothing unless it is due
    ...
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch.optim import Optimizer

from fxteleport.checked import checked
from fxteleport.landscape.objectives import Objective
from fxteleport.passes.errors import InputError
from fxteleport.plan.choices import check_range
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.training.optimizer_state import STATES, require_own, trains
from fxteleport.training.teleportable import Teleportable


class Teleport:
    """Teleports when its schedule says so; the conditions given are joined by "or".

    Args:
        network: what to teleport.
        optimizer: of the network's parameters, whose state is transported. None: no optimiser, or Lightning's.
        at: the counts (epochs or steps) at which to teleport; [] for never, a baseline.
        every: teleport at every multiple of this, but not at 0.
        probability: teleport with this chance each time.
        candidates: the number of changes of basis to draw.
        metric: the candidate with the smallest metric is taken (see `fxteleport.objectives`); needed for more than one.
            A metric has its own data: close over a batch that you replace.
        cob_range: the range of the law.
        landscape: the law.
        state: "transport", "reset" or "keep" the optimiser's state.
        seed: of the draws and of the probability; the same seed and count give the same draw.

    Raises:
        InputError: settings that contradict each other or give no schedule, a network that is no `Teleportable`, or an
            optimiser of another network.
        CobError: a range outside its law.
    """

    @checked
    def __init__(
        self,
        network: Teleportable,
        optimizer: Optimizer | None = None,
        *,
        at: Collection[int] | None = None,
        every: int | None = None,
        probability: float = 0.0,
        candidates: int = 1,
        metric: Objective | None = None,
        cob_range: float = 0.5,
        landscape: str = "intra",
        state: str = "transport",
        seed: int = 0,
    ) -> None:
        if not isinstance(network, Teleportable):
            raise InputError(
                f"a {type(network).__name__} cannot teleport: pass fxteleport.Teleportable(model, *example_inputs), and"
                " of one that DDP or torch.compile wrapped, what is inside"
            )
        if optimizer is not None:
            require_own(optimizer, network)
        check_range(cob_range, landscape)
        if state not in STATES:
            raise InputError(f"unknown state '{state}': choose one of {', '.join(STATES)}")
        if not 0 <= probability <= 1:
            raise InputError(f"the probability must be between 0 and 1, got {probability}")
        if at is not None and not all(isinstance(i, Integral) and int(i) >= 0 for i in at):
            raise InputError(f"at={at!r}: name epochs (or steps) by whole numbers from 0")
        if every is not None and every < 1:
            raise InputError(f"every={every}: teleport every n epochs with n of at least 1")
        if at is None and every is None and not probability:
            raise InputError("the schedule is empty: pass at ([] for never), every or probability")
        if candidates < 1 or (candidates > 1 and metric is None):
            raise InputError(f"candidates={candidates} needs a number of at least 1, and above 1 a metric to choose by")
        self.network, self.optimizer = network, optimizer
        self.at, self.every, self.probability = frozenset(at or ()), every, probability
        self.candidates, self.metric = candidates, metric
        self.cob_range, self.landscape, self.state, self.seed = cob_range, landscape, state, seed

    def due(self, count: int) -> bool:
        """Whether to teleport at this epoch."""
        if count in self.at or (self.every is not None and count > 0 and count % self.every == 0):
            return True
        return bool(np.random.default_rng([self.seed, count, 1]).random() < self.probability)

    def __call__(self, count: int) -> ChangeOfBasis | None:
        """Teleport if it is due; returns the change of basis, or None."""
        if not self.due(count):
            return None
        cob = self.draw(count)
        self.network.teleport_(cob, self.optimizer, self.state)
        return cob

    def draw(self, count: int) -> ChangeOfBasis:
        """The best of the candidates of this epoch."""
        seeds = np.random.SeedSequence([self.seed, count]).generate_state(self.candidates)
        drawn = [self.network.plan.sample(self.cob_range, self.landscape, seed=int(s)) for s in seeds]
        if self.metric is None:
            return drawn[0]
        return min(drawn, key=lambda cob: float(self.metric(self.network.at(cob))))  # type: ignore[misc]


@checked
def lightning_callback(teleport: Teleport) -> Any:
    """The same as a Lightning callback: called at the start of every training epoch.

    The Lightning module must have `teleport.network` as a submodule, and call it in its steps. If `teleport` has no
    optimiser, it gets the trainer's optimiser of the network. `fit` raises InputError if the module has another
    network, or if none or several of its optimisers train this one.

    Raises:
        InputError: Lightning is not installed.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback  # type: ignore[assignment]
        except ImportError:
            raise InputError("Lightning is not installed: pip install lightning") from None

    class OnEpoch(Callback):  # type: ignore[misc]
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            if all(module is not teleport.network for module in pl_module.modules()):
                raise InputError(
                    f"{type(pl_module).__name__} does not hold the network that the callback teleports: pass"
                    " lightning_callback a Teleport of its own Teleportable"
                )

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            if teleport.optimizer is None and trainer.optimizers:
                teleport.optimizer = _of(teleport.network, trainer.optimizers)

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            teleport(trainer.current_epoch)

    return OnEpoch()


def _of(network: Teleportable, optimizers: Sequence[Optimizer]) -> Optimizer:
    """The optimiser that trains a network.

    Raises:
        InputError: none does, or several.
    """
    own = [o for o in optimizers if trains(o, network)]
    if len(own) != 1:
        raise InputError(
            f"{len(own) or 'none'} of the trainer's {len(optimizers)} optimisers hold parameters of the network that"
            " is teleported: let one hold them all"
        )
    return own[0]
