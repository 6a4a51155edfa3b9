"""Changes of basis: the free values of a plan, as elements of a group.

Every neuron's CoB is a monomial of the free values, so composing two teleportations multiplies the values and
undoing one inverts them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxteleport.arguments import kind
from fxteleport.passes.domain.solution import POSITIVE, UNIT
from fxteleport.passes.errors import CheckpointError, CobError
from fxteleport.plan.choices import check_range
from fxteleport.summaries import Summarized
from fxteleport.tensor_files import read_tensors, write_tensors

_SHOWN = 4  # values of a repr


@dataclass(frozen=True, eq=False, repr=False)
class ChangeOfBasis(Summarized):
    """The free values of one teleportation.

    Attributes:
        values: float64 [num_free], non-zero; may require grad.
        fingerprint: the plan that the values belong to.
    """

    values: Tensor
    fingerprint: str

    def __post_init__(self) -> None:
        if not isinstance(self.values, Tensor):
            raise CobError(f"the values of a change of basis are {kind(self.values)}: use plan.cob(values)")

    def __repr__(self) -> str:
        n = self.values.numel()
        few = ", ".join(f"{v:.4g}" for v in self.values.detach().reshape(-1)[:_SHOWN].tolist())
        return f"ChangeOfBasis({n} value{'s' * (n != 1)}: [{few}{', ...' if n > _SHOWN else ''}])"

    def facts(self) -> list[tuple[str, str]]:
        """The number of values, their magnitudes, their signs, and whether they are exact."""
        values = self.values.detach().double()
        sizes = values.abs()
        lines = [("change of basis", f"{values.numel()} free value{'s' * (values.numel() != 1)}")]
        if values.numel():
            lines.append(("magnitudes", f"{sizes.min():.4g} to {sizes.max():.4g}, median {sizes.median():.4g}"))
            lines.append(("negative", f"{int((values < 0).sum())} of {values.numel()}"))
        return [*lines, ("exact", "yes: powers of two" if self.is_exact else "no"), ("plan", self.fingerprint)]

    def inverse(self) -> ChangeOfBasis:
        """The CoB that undoes this one."""
        return ChangeOfBasis(self.values.reciprocal(), self.fingerprint)

    def __matmul__(self, other: ChangeOfBasis) -> ChangeOfBasis:
        """This CoB after the other.

        Raises:
            CobError: they belong to different plans, or the other is no change of basis.
        """
        require_cob(other)
        if self.fingerprint != other.fingerprint:
            raise CobError("these two changes of basis belong to different plans: compose CoBs of one plan only")
        return ChangeOfBasis(self.values * other.values, self.fingerprint)

    @property
    def is_exact(self) -> bool:
        """True if every value is a power of two, up to sign: scaling by it rounds nothing."""
        mantissa, _ = torch.frexp(self.values.detach().abs())
        return bool((mantissa == 0.5).all())

    def save(self, path: str | Path) -> None:
        """Write the values as safetensors, with the plan's fingerprint.

        Raises:
            CheckpointError: the path cannot be written.
        """
        write_tensors(path, {"values": self.values.detach()}, {"cob": self.fingerprint})

    @classmethod
    def load(cls, path: str | Path) -> ChangeOfBasis:
        """Read a CoB that `save` wrote; `plan.check(cob)` (and every use) compares the fingerprint.

        Raises:
            CheckpointError: the file is missing, corrupt or holds something else.
        """
        tensors, metadata = read_tensors(path)
        if "cob" not in metadata or "values" not in tensors:
            raise CheckpointError(f"'{path}' holds no change of basis: pass a file that ChangeOfBasis.save wrote")
        values = tensors["values"]
        if values.dtype != torch.float64 or values.ndim != 1:
            raise CheckpointError(f"'{path}' holds values that are no list of float64 numbers: it is corrupt")
        return cls(values, metadata["cob"])


def require_cob(value: object) -> None:
    """Raise CobError for anything but a change of basis."""
    if not isinstance(value, ChangeOfBasis):
        raise CobError(
            f"a change of basis is needed, and this is {kind(value)}: draw one with plan.sample(), or make one of"
            " values of your own with plan.cob(values)"
        )


def sample_values(
    allows: np.ndarray[Any, Any],
    cob_range: float = 0.5,
    landscape: str = "intra",
    exact: bool = False,
    seed: int | None = None,
    center: float = 1.0,
) -> Tensor:
    """Draw free values, float64 [len(allows)].

    intra: U(1 - r, 1 + r); inter: an equal mixture of that and U(-1 - r, -1 + r); positive: U(0, r); negative:
    U(-r, 0); centered: U(c - r, c + r); log: exp(U(-r, r)). With `exact` each value becomes a power of two,
    2^k with k uniform in -K..K where 2^K is the law's largest ratio to its middle (at least 1), and keeps the
    law's sign. A `POSITIVE` value is made positive; of a `UNIT` value only the sign is kept.

    Raises:
        CobError: an unknown law, a range outside it, or no seed.
    """
    check_range(cob_range, landscape, center)
    try:
        random = np.random.Generator(np.random.PCG64(seed))  # the same numbers on every machine
    except (TypeError, ValueError):
        raise CobError(f"the seed must be None or a whole number from 0, got {seed!r}") from None
    n = len(allows)
    uniform, coin, level = random.random(n), random.random(n), random.random(n)
    spread = (2 * uniform - 1) * cob_range
    if landscape in ("intra", "inter"):
        values = 1 + spread
    elif landscape == "log":
        values = np.exp(spread)
    elif landscape == "centered":
        values = center + spread
    else:  # U(0, r) without the zero
        values = np.maximum(uniform, 2.0**-53) * cob_range * (1 if landscape == "positive" else -1)
    values = np.where(values == 0, np.finfo(np.float64).tiny, values)
    if landscape == "inter":
        values = np.where(coin < 0.5, -values, values)
    if exact:
        k = largest_power(cob_range, landscape)
        values = np.sign(values) * 2.0 ** np.floor(level * (2 * k + 1) - k)
    values = np.where(allows == POSITIVE, np.abs(values), values)
    values = np.where(allows == UNIT, np.sign(values), values)
    return torch.from_numpy(values)


def largest_power(cob_range: float, landscape: str) -> int:
    """K of the exact law 2^-K .. 2^K: at least 1, at most 8."""
    if landscape in ("intra", "inter"):
        ratio = math.log2((1 + cob_range) / (1 - cob_range)) / 2
    elif landscape == "log":
        ratio = cob_range / math.log(2)
    else:
        ratio = 2
    return min(8, max(1, round(ratio)))
