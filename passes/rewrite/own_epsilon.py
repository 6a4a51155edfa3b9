"""Norms of a scaled input, by another epsilon.

The norm of c x equals that of x, for c > 0, if its epsilon is multiplied by c^2 (added to a variance) or by c (added to
a deviation). So nothing is divided at run time. c is kept as every other CoB is, in a persistent buffer; the epsilon is
recomputed whenever the buffer is set, since a kernel takes it as a Python number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from fxteleport.passes.rewrite.teleported_modules import Teleported


class OwnEpsilon(Teleported):
    """A module whose epsilon depends on the CoB of its input, one positive number `tau` (a tensor without axes)."""

    buffer = "tau"
    tau: Tensor | None

    def put(self, cob: Tensor | None) -> None:
        super().put(cob)
        self._renew()

    def _renew(self) -> None:
        """Recompute the epsilon from the buffer."""
        cob = self.cob
        if cob is None:
            self._set(1.0)
        elif not cob.is_meta:
            self._set(float(cob))

    def _set(self, factor: float) -> None:
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> nn.Module:
        super()._apply(fn, recurse)  # to another number type, in which the buffer is rounded
        self._renew()
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._renew()


class OwnEpsilonCall(OwnEpsilon):
    """A function or a method, one of whose numbers is multiplied by `tau ** power`.

    Args:
        fn: the function, or the name of the method.
        argument: which number: an index among the positional arguments, or a name.
        power: the degree of homogeneity of the value that the number is added to, or compared with.
        tau: the CoB of the norm's input.
    """

    def __init__(self, fn: Callable[..., Tensor] | str, argument: int | str, power: int, tau: Tensor) -> None:
        super().__init__()
        self.fn, self.argument, self.power = fn, argument, power
        self.register_buffer("tau", None)
        self.put(tau)

    def _set(self, factor: float) -> None:
        self.factor = factor**self.power

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Arguments and result as of the function."""
        if isinstance(self.argument, int):
            at = self.argument
            args = (*args[:at], args[at] * self.factor, *args[at + 1 :])
        else:
            kwargs[self.argument] = kwargs[self.argument] * self.factor
        if isinstance(self.fn, str):
            return getattr(args[0], self.fn)(*args[1:], **kwargs)
        return self.fn(*args, **kwargs)

    def extra_repr(self) -> str:
        name = self.fn if isinstance(self.fn, str) else getattr(self.fn, "__name__", str(self.fn))
        return f"{name}, {self.argument} * tau ** {self.power}, tau={super().extra_repr()}"


class OwnEpsilonNorm(OwnEpsilon):
    """A torch layer whose `eps` is multiplied by `tau ** 2`; its parameters are unchanged."""

    of: ClassVar[type[nn.Module]]
    original_eps: float

    def _set(self, factor: float) -> None:
        self.__dict__["eps"] = self.original_eps * factor**2

    def extra_repr(self) -> str:
        return f"{self.of.extra_repr(self)}, tau={super().extra_repr()}"  # type: ignore[arg-type]


class OwnEpsilonLayerNorm(OwnEpsilonNorm, nn.LayerNorm):
    """nn.LayerNorm, as above."""

    of = nn.LayerNorm


class OwnEpsilonRMSNorm(OwnEpsilonNorm, nn.RMSNorm):
    """nn.RMSNorm, as above."""

    of = nn.RMSNorm


class OwnEpsilonGroupNorm(OwnEpsilonNorm, nn.GroupNorm):
    """nn.GroupNorm, as above."""

    of = nn.GroupNorm


class OwnEpsilonInstanceNorm1d(OwnEpsilonNorm, nn.InstanceNorm1d):
    """nn.InstanceNorm1d, as above."""

    of = nn.InstanceNorm1d


class OwnEpsilonInstanceNorm2d(OwnEpsilonNorm, nn.InstanceNorm2d):
    """nn.InstanceNorm2d, as above."""

    of = nn.InstanceNorm2d


class OwnEpsilonInstanceNorm3d(OwnEpsilonNorm, nn.InstanceNorm3d):
    """nn.InstanceNorm3d, as above."""

    of = nn.InstanceNorm3d


_NORMS: tuple[type[OwnEpsilonNorm], ...] = (
    OwnEpsilonLayerNorm, OwnEpsilonRMSNorm, OwnEpsilonGroupNorm,
    OwnEpsilonInstanceNorm1d, OwnEpsilonInstanceNorm2d, OwnEpsilonInstanceNorm3d,
)  # fmt: skip
WITH_OWN_EPSILON: dict[type[nn.Module], type[OwnEpsilonNorm]] = {kind.of: kind for kind in _NORMS}


def with_own_epsilon(norm: nn.Module, tau: Tensor) -> OwnEpsilonNorm:
    """A norm that replaces one of torch's, with its parameters and all its other attributes."""
    kind = WITH_OWN_EPSILON[type(norm)]
    replacement = kind.__new__(kind)
    nn.Module.__init__(replacement)
    replacement.__dict__.update(norm.__dict__)
    replacement._buffers = {**norm._buffers, "tau": None}
    replacement.original_eps = float(norm.eps)  # type: ignore[arg-type]
    replacement.put(tau)
    return replacement
