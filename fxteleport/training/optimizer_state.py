"""Optimiser state under teleportation: it must be scaled with the weights.

Weights scale by s, gradients by 1 / s (paper, Theorem 5.1). So an average of gradients scales by 1 / s, one of their
squares by 1 / s^2, and a running average of weights by s; a gradient divided by its size changes by the sign of s
alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxteleport.arguments import kind, require_module
from fxteleport.checked import checked
from fxteleport.passes.errors import InputError

STATES = ("transport", "reset", "keep")
_SIGN = "sign"

# How each kind of state scales: an exponent of s, or its sign.
POWERS: dict[str, int | str] = {
    "momentum_buffer": -1,  # SGD
    "exp_avg": -1,  # Adam, AdamW, NAdam, RAdam, Adamax
    "exp_avg_sq": -2,
    "max_exp_avg_sq": -2,
    "sum": -2,  # Adagrad
    "square_avg": -2,  # RMSprop, Adadelta
    "grad_avg": -1,  # centred RMSprop
    "acc_delta": 0,  # Adadelta: squared steps, whose unit is that of the optimiser
    "prev": -1,  # Rprop: the last gradient
    "step_size": 0,
    "ax": 1,  # ASGD: an average of weights
}
_EXCEPTIONS: dict[tuple[str, str], int | str] = {
    ("RMSprop", "momentum_buffer"): _SIGN,  # gradients over their size
    ("Adamax", "exp_inf"): -1,
}


@checked
@torch.no_grad()
def transport(optimizer: Optimizer, network: nn.Module, scales: Mapping[str, Tensor], state: str = "transport") -> None:
    """Move an optimiser's state to the basis that its parameters were teleported to.

    Args:
        optimizer: of the network's parameters, which were scaled in place, or will be.
        network: gives the parameters' names.
        scales: {name: factor} of the teleportation, as of `plan.scales(cob)`.
        state: "transport"; "reset", which forgets everything; or "keep", which changes nothing.

    Raises:
        InputError: an unknown `state`, an optimiser of another network, or a tensor in its state that no rule knows.
    """
    if state not in STATES:
        raise InputError(f"unknown state '{state}': choose one of {', '.join(STATES)}")
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"the optimiser is {kind(optimizer)}: pass one of torch.optim")
    require_module(network, "the network")
    if not isinstance(scales, Mapping):
        raise InputError(f"the scales are {kind(scales)}: pass plan.scales(cob)")
    require_own(optimizer, network)
    if state == "reset":
        optimizer.state.clear()
    if state != "transport":
        return
    algorithm = type(optimizer).__name__
    planned: list[tuple[Tensor, Tensor]] = []
    for name, parameter in network.named_parameters():
        held = optimizer.state.get(parameter, {})
        for key, value in held.items():
            if not isinstance(value, Tensor) or value.shape != parameter.shape or key == "step":
                _known_or_plain(algorithm, key, value)
                continue
            power = _EXCEPTIONS.get((algorithm, key), POWERS.get(key))
            if power is None:
                raise _unknown(algorithm, key)
            if power != 0 and name in scales:
                scale = scales[name].to(value)
                sign = scale.sign() if key != "exp_inf" else 1
                factor = scale.sign() if power == _SIGN else scale.abs() ** int(power) * sign ** abs(int(power))
                planned.append((value, factor))
    for value, factor in planned:  # after all tensors were checked, so that no state is half scaled
        value.mul_(factor)


def trains(optimizer: Optimizer, network: nn.Module) -> bool:
    """True where the optimiser holds a parameter of the network."""
    own = {id(p) for p in network.parameters()}
    return any(id(p) in own for group in optimizer.param_groups for p in group["params"])


def require_own(optimizer: Optimizer, network: nn.Module) -> None:
    """Raise InputError for an optimiser that has no parameter of the network."""
    if not trains(optimizer, network):
        raise InputError(
            f"this {type(optimizer).__name__} holds no parameter of the network that is teleported (of a copy of it,"
            " or of another?): make it of `network.parameters()`, or pass none"
        )


def _known_or_plain(algorithm: str, key: str, value: object) -> None:
    """Raise InputError unless a state is a number (a step count, a product of betas), which needs no change."""
    if (isinstance(value, Tensor) and value.numel() > 1) or isinstance(value, (list, tuple, dict)):
        raise _unknown(algorithm, key)


def _unknown(algorithm: str, key: str) -> InputError:
    return InputError(
        f"{algorithm} keeps '{key}', and how that scales is not known: pass state='reset' or 'keep',"
        f" or add '{key}' to fxteleport.training.optimizer_state.POWERS"
    )
