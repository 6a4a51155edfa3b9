"""The settings of one trace; some are found out by a trace that fails for the lack of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import FunctionType
from typing import Any, TypeVar

import torch

from fxteleport.passes.capture.control_flow import (
    Converts,
    DecidesInFunction,
    Draws,
    HashedSize,
    NextRunAsks,
    NextRunDiffers,
    WrittenConstant,
)
from fxteleport.passes.capture.held_objects import Left
from fxteleport.passes.errors import CaptureError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """How a trace is made.

    Attributes:
        device: where the inputs are; meta tensors stand for tensors there.
        makes_all: tensors that `forward` makes from no input are made by nodes, and may be written to; the values of
            those with fractions are not known then. Otherwise they are constants.
        hashes: a size may be hashed; it is a number then, with a guard.
        training: the model is in train mode.
        data_guards: what the example inputs alone decide goes as they do, with a guard.
        is_body: the graph is of the inside of a call that is recorded as one node.
        found: attributes that the run finds, if not as they are in the model: (module's path, name) -> value.
        converting: functions in which `int` and `float` of a size are recorded.
        functions: plain functions in which the data decide; their calls are seen.
        objects: what the run finds in objects that modules hold, if not what they hold now.
        stateful: paths of modules that compute something else in the next run; they are kept whole.
        carriers: the objects in which they keep what they need for that, and those that lead there.
        ranks, types: inputs of other numbers of axes, or of other types, are refused.
        draws: forward draws random numbers of Python's or numpy's; the modules that do are kept whole.
    """

    device: torch.device
    makes_all: bool = False
    hashes: bool = False
    training: bool = False
    data_guards: bool = True
    is_body: bool = False
    found: Mapping[tuple[str, str], Any] = field(default_factory=dict)
    objects: Left = field(default_factory=Left)
    converting: frozenset[FunctionType] = frozenset()
    functions: frozenset[FunctionType] = frozenset()
    stateful: frozenset[str] = frozenset()
    carriers: tuple[Any, ...] = ()
    ranks: bool = False
    types: bool = False
    draws: bool = False

    def with_stateful(self, found: NextRunDiffers) -> TraceSettings:
        """The same, where more modules are kept whole; of one that is already (nothing calls it), its owner.

        Raises:
            CaptureError: all of them are, and their owners.
        """
        paths = set()
        for path in found.paths:
            while path and path in self.stateful:
                path = path.rpartition(".")[0]
            paths.add(path)
        if paths <= self.stateful:
            raise CaptureError(f"'{min(paths)}' is kept whole, and what it leaves makes the next run another one")
        return replace(self, stateful=self.stateful | paths, carriers=(*self.carriers, *found.carriers))

    def of_body(self, training: bool) -> TraceSettings:
        """Those of the inside of a call."""
        return TraceSettings(
            self.device, self.makes_all, self.hashes, training, is_body=True, converting=self.converting
        )


def retry(trace: Callable[[TraceSettings], T], settings: TraceSettings) -> T:
    """Trace with the settings that the model turns out to need."""
    while True:
        try:
            return trace(settings)
        except WrittenConstant:
            settings = replace(settings, makes_all=True)
        except HashedSize:
            settings = replace(settings, hashes=True)
        except DecidesInFunction as found:
            settings = replace(settings, functions=settings.functions | found.functions)
        except Converts as found:
            settings = replace(settings, converting=settings.converting | {found.function})
        except Draws:
            settings = replace(settings, draws=True)
        except NextRunDiffers as found:
            settings = settings.with_stateful(found)
        except NextRunAsks as asked:
            settings = replace(settings, ranks=asked.rank, types=asked.type)
