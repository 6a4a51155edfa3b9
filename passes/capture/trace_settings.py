"""The settings of one trace. A trace that fails may show that another setting is needed (`retry`)."""

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
        device: the device of the inputs; meta tensors stand for tensors on it.
        makes_all: tensors that `forward` creates from no input are created by nodes, so they may be written to; the
            values of floating-point ones are then unknown. Otherwise they are constants.
        hashes: a size may be hashed; this specialises it.
        training: the model is in train mode.
        data_guards: branches that the example inputs alone decide are taken as in the example, with a guard.
        is_body: the graph is the body of a call that is recorded as one node.
        found: (module's path, name) -> value, for attributes whose values at the start differ from the model's.
        converting: functions in which conversions of sizes are recorded.
        functions: plain functions in which data decide a branch; the trace sees their calls.
        objects: the contents of objects at the start, where they differ from the current ones.
        stateful: paths of modules that compute something else in the next run; they are kept whole.
        carriers: the objects that hold their state, and those that refer to these.
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
        """The same with more modules kept whole; for a module that is kept whole already, the one that contains it.

        Raises:
            CaptureError: all of them are, and those that contain them.
        """
        if found.only_carriers:
            return replace(self, carriers=(*self.carriers, *found.carriers))
        paths = set()
        for path in found.paths:
            while path and path in self.stateful:
                path = path.rpartition(".")[0]
            paths.add(path)
        if paths <= self.stateful:
            raise CaptureError(f"'{min(paths)}' is kept whole, and what it leaves makes the next run another one")
        return replace(self, stateful=self.stateful | paths, carriers=(*self.carriers, *found.carriers))

    def of_body(self, training: bool) -> TraceSettings:
        """The settings for the body of a call."""
        return TraceSettings(
            self.device, self.makes_all, self.hashes, training, is_body=True, converting=self.converting
        )


def retry(trace: Callable[[TraceSettings], T], settings: TraceSettings) -> T:
    """Trace, and trace again with other settings as long as `trace` raises that they are needed (`Again`)."""
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
