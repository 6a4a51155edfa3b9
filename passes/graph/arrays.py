"""Arrays: objects that hold numbers or text of their own, which code may write over.

They are numpy's arrays, bytes, plain tensors, and files in memory.

What a forward writes into one is read by the next run. So the clone of a module has copies of them.
"""

from __future__ import annotations

import array
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxteleport.passes.graph.class_cache import once_per_class

_FILES = (io.StringIO, io.BytesIO)
_KINDS = (np.ndarray, bytearray, array.array, memoryview, Tensor, *_FILES)


@once_per_class
def is_array(kind: type) -> bool:
    """True for a class of arrays. Some of its objects may still have no content to compare (`held_by`)."""
    return issubclass(kind, _KINDS)


def held_by(x: Any) -> Any:
    """A copy of an array's content; None where it cannot be read (a meta tensor, a subclass) or cannot change."""
    if isinstance(x, Tensor):
        has_numbers = x.layout is torch.strided and x.device.type != "meta" and type(x) is Tensor
        return x.detach().clone() if has_numbers else None
    if isinstance(x, np.ndarray):
        return x.copy() if x.flags.writeable else None
    if isinstance(x, memoryview):
        return None if x.readonly else x.tobytes()
    if isinstance(x, _FILES):
        return None if x.closed else (x.getvalue(), x.tell())
    return x[:]


def still_holds(x: Any, before: Any) -> bool:
    """True where an array's content is still `before`, to the last bit."""
    if isinstance(x, Tensor):
        return x.shape == before.shape and x.dtype == before.dtype and _same_bits(x.detach(), before)
    if isinstance(x, np.ndarray):
        if x.shape != before.shape or x.dtype != before.dtype:
            return False
        if x.dtype.hasobject:
            return all(a is b for a, b in zip(x.flat, before.flat, strict=True))
        return bool(x.tobytes() == before.tobytes())
    if isinstance(x, _FILES):
        return bool(held_by(x) == before)
    held: Any = x.tobytes() if isinstance(x, memoryview) else x
    return bool(held == before)


def put_into(x: Any, before: Any) -> None:
    """Write an earlier content back into an array."""
    if isinstance(x, Tensor):
        with torch.no_grad():
            x.detach().copy_(before)
    elif isinstance(x, np.ndarray):
        x[...] = before
    elif isinstance(x, _FILES):
        text, place = before
        x.seek(0)
        x.truncate()
        x.write(text)
        x.seek(place)
    else:
        x[:] = before


def copied(x: Any) -> Any:
    """A copy of an array, in memory of its own."""
    if isinstance(x, Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    if isinstance(x, _FILES):
        made = type(x)()
        if not x.closed:
            put_into(made, held_by(x))
        return made
    if isinstance(x, memoryview):
        code: Any = x.format
        return memoryview(bytearray(x)).cast(code)
    return x.copy() if isinstance(x, np.ndarray) else x[:]


def overlap(x: Any, y: Any) -> bool:
    """True where two arrays lie in the same memory, in part at least."""
    if isinstance(x, _FILES) or isinstance(y, _FILES):
        return x is y
    (start, end), (first, last) = _addresses(x), _addresses(y)
    return start < last and first < end


def _addresses(x: Any) -> tuple[int, int]:
    """Where an array's memory begins and ends."""
    if isinstance(x, Tensor):
        storage = x.untyped_storage()
        return storage.data_ptr(), storage.data_ptr() + storage.nbytes()
    bounds: Any = getattr(np.lib, "array_utils", np).byte_bounds  # it has moved in numpy 2
    start, end = bounds(x if isinstance(x, np.ndarray) else np.frombuffer(x, np.uint8))
    return start, end


def _same_bits(x: Tensor, y: Tensor) -> bool:
    return torch.equal(*(t.cpu().contiguous().reshape(-1).view(torch.uint8) for t in (x, y)))
