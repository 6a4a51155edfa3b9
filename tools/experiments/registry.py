"""The experiments by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fxteleport.tools.experiments import (
    feature_maps,
    flatness,
    gradients,
    histogram,
    level_set,
    micro,
    midway,
    surface,
    training,
)
from fxteleport.tools.experiments.experiment import Experiment, Options

EXPERIMENTS = {
    e.name: e
    for e in (
        feature_maps.EXPERIMENT, level_set.EXPERIMENT, micro.EXPERIMENT, flatness.EXPERIMENT, surface.EXPERIMENT,
        gradients.EXPERIMENT, training.EXPERIMENT, training.PSEUDO, histogram.EXPERIMENT,
    )
}  # fmt: skip
ALL = "all"


def variants(name: str, asked: Options) -> list[tuple[str, Experiment, Options]]:
    """(folder, experiment, options) of what a name stands for; "all" has E7, E8 and E11 as variants of `training`."""
    if name == "training" and asked.teleport_epoch is not None:
        return [("", midway.EXPERIMENT, asked)]
    if name != ALL:
        return [("", EXPERIMENTS[name], asked)]
    known = [(e.name, e, asked) for e in EXPERIMENTS.values()]
    fewer: dict[str, Any] = {"lrs": asked.lrs or asked.pick((), (0.01,), ())}
    activations = asked.activations or asked.pick(("tanh",), *[("leakyrelu", "tanh", "elu")] * 2)
    inits = asked.inits or asked.pick(("xavier",), *[("gaussian", "xavier")] * 2)
    known.append(("training-activations", training.EXPERIMENT, replace(asked, activations=activations, **fewer)))
    known.append(("training-inits", training.EXPERIMENT, replace(asked, inits=inits, **fewer)))
    known.append(("training-midway", midway.EXPERIMENT, asked))
    return known
