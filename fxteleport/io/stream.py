"""Stream: teleport a checkpoint on disk that is larger than memory, with a plan that was made without weights.

Every shard is copied a few megabytes at a time, in runs of rows of one tensor, which are scaled by their part of the
factors. The headers are copied byte for byte, so the result has the layout, the order and the metadata of the source.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fxteleport.atomic_files import write_bytes, write_file
from fxteleport.checked import checked
from fxteleport.io.safetensors_layout import Entry, Layout, Shard, read_layout
from fxteleport.passes.errors import CheckpointError, InputError
from fxteleport.passes.scale.format_range import largest
from fxteleport.plan.analysis import Analysis, require_plan
from fxteleport.plan.cob import ChangeOfBasis
from fxteleport.plan.free_values import check
from fxteleport.plan.number_formats import has_room, require_sizes
from fxteleport.plan.unguarded import admit

_RUN = 1 << 23  # bytes copied at a time: they stay in the processor's cache while they are scaled
_WRITE = 1 << 18  # bytes in one write: Linux was measured to take five times as long with larger ones
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
Progress = Callable[[int], None]


@checked
def stream(
    plan: Analysis,
    cob: ChangeOfBasis,
    source: str | Path,
    output: str | Path,
    progress: Progress | None = None,
    strict: bool = False,
) -> list[Path]:
    """Scale the tensors of a checkpoint, as `plan.apply_` scales those of a model, into another checkpoint.

    Args:
        plan: with `mode="weights"`; of a model on the meta device, for instance.
        cob: a change of basis of this plan.
        source: a folder with `*.safetensors.index.json` and its shards, or with `model.safetensors`; or one file.
        output: a folder, or a file where the source is one. Each file is written under a temporary name and moved
            into place, the index last: a folder with an index is complete.
        progress: called with the number of bytes of every run that was written.
        strict: refuse a plan with conditions (`plan.conditions`); without it, a warning lists them.

    Returns:
        The files written.

    Raises:
        InputError: the plan's mode is not "weights", or the output is the source.
        ConditionError: `strict`, and the plan has conditions.
        CobError: the CoB is not valid for this plan, or would push tensors out of their number format (checked before
            anything is written, by reading the source once more where the CoB is far from 1).
        ModelError: an index buffer in the checkpoint is not the planned model's.
        CheckpointError: the source is missing, corrupt or of another model (checked before anything is written), or
            the output cannot be written.
    """
    require_plan(plan)
    if plan.mode != "weights":
        raise InputError("a checkpoint holds parameters only, which keep the function in mode='weights': plan again")
    check(plan, cob)
    admit(plan, strict)
    layout = read_layout(source)
    fits(plan, layout)
    _require_values(plan, layout)
    _require_range(plan, cob, layout)
    targets = _targets(layout, Path(output))
    numbers = plan.solution.numbers(cob.values.detach().cpu())
    if layout.index is not None:  # an earlier checkpoint in this folder is incomplete from now on
        (Path(output) / layout.index.name).unlink(missing_ok=True)
    for shard, target in zip(layout.shards, targets, strict=True):
        write_file(target, lambda name, shard=shard: _copy(plan, numbers, shard, name, progress))  # type: ignore[misc]
    if layout.index is None:
        return targets
    targets.append(Path(output) / layout.index.name)
    write_bytes(targets[-1], layout.index.read_bytes())
    return targets


def fits(plan: Analysis, layout: Layout) -> None:
    """Raise CheckpointError unless a checkpoint has the planned model's tensors (of tied ones, any name)."""
    metas, canonical = plan.captured.metas, plan.captured.canonical
    held = {entry.name: entry for entry in layout.entries()}
    there = {canonical[name] for name in held if name in canonical}
    needed = (metas.keys() & plan.captured.model.state_dict().keys()) | plan.recipe.factors.keys()
    known = {name: e for name, e in held.items() if name in metas}
    problems = {
        "missing": [f"'{n}'" for n in metas if n in needed and canonical[n] not in there],
        "unknown to the model": [f"'{n}'" for n in held if n not in metas],
        "of another shape": [
            f"'{n}' {e.shape}, planned as {tuple(metas[n].shape)}"
            for n, e in known.items()
            if metas[n].shape != e.shape
        ],
        "in a number format that cannot be scaled": [
            f"'{n}' {e.dtype}" for n, e in known.items() if n in plan.recipe.factors and e.dtype not in _DTYPES
        ],
    }
    said = [f"{len(names)} {what} (the first: {names[0]})" for what, names in problems.items() if names]
    if said:
        raise CheckpointError(f"'{layout.source}' is not a checkpoint of this model: tensors {', '.join(said)}")


def _require_range(plan: Analysis, cob: ChangeOfBasis, layout: Layout) -> None:
    scaled = [e for e in layout.entries() if e.name in plan.recipe.factors]
    if has_room(plan, {_DTYPES[e.dtype] for e in scaled}, cob):
        return
    sizes: dict[str, tuple[float, torch.dtype]] = {}
    for shard in layout.shards:
        with shard.path.open("rb") as source:
            source.seek(len(shard.header))
            for entry in shard.entries:
                if entry.name not in plan.recipe.factors:
                    source.seek(entry.size, 1)
                    continue
                dtype, size = _DTYPES[entry.dtype], 0.0
                for _, _, length in _rows_of(entry):
                    raw = torch.empty(length, dtype=torch.uint8)
                    _fill(source, raw, shard)
                    size = max(size, largest(raw.view(dtype)))
                sizes[entry.name] = size, dtype
    require_sizes(plan, cob, sizes)


def _require_values(plan: Analysis, layout: Layout) -> None:
    """Raise ModelError where an index buffer in a checkpoint is not the planned one."""
    for shard in layout.shards:
        names = [entry.name for entry in shard.entries if entry.name in plan.planned.values]
        if names:
            with safe_open(shard.path, "pt") as held:
                for name in names:
                    plan.planned.require_value(name, held.get_tensor(name))


def _targets(layout: Layout, output: Path) -> list[Path]:
    """The output files of the shards."""
    many = layout.source.is_dir()
    if many and output.exists() and not output.is_dir():
        raise CheckpointError(f"'{output}' is a file: the source is a folder, so name one for the output")
    if not many and output.is_dir():
        raise CheckpointError(f"'{output}' is a folder: the source is one file, so name one for the output")
    folder = output if many else output.parent
    targets = [output / shard.path.name for shard in layout.shards] if many else [output]
    for shard, target in zip(layout.shards, targets, strict=True):
        if target.exists() and target.samefile(shard.path):
            raise InputError(f"the output '{target}' is the source: name another place")
    above = folder.parent if many and not folder.exists() else folder
    if not above.is_dir():
        raise CheckpointError(f"there is no folder '{above}' for '{output}'")
    free = shutil.disk_usage(above).free
    if free < layout.size:
        raise CheckpointError(f"'{above}' has {free / 1e9:.1f} GB left, the output needs {layout.size / 1e9:.1f} GB")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder '{folder}': {error.strerror}") from None
    return targets


def _copy(plan: Analysis, numbers: Tensor, shard: Shard, target: str, progress: Progress | None) -> None:
    """Write a shard with its tensors scaled."""
    buffer = torch.empty(0, dtype=torch.uint8)
    with shard.path.open("rb") as source, open(target, "wb") as out:
        source.seek(len(shard.header))
        out.write(shard.header)
        for entry in shard.entries:
            scaled = entry.name in plan.recipe.factors
            for start, stop, size in _rows_of(entry) if scaled else _bytes_of(entry):
                if len(buffer) < size:
                    buffer = torch.empty(max(_RUN, size), dtype=torch.uint8)
                raw = buffer[:size]
                _fill(source, raw, shard)
                if scaled:
                    _scale_(plan, numbers, entry, start, stop, raw)
                for piece in raw.split(_WRITE):
                    out.write(_bytes(piece))
                if progress is not None:
                    progress(size)


def _bytes_of(entry: Entry) -> Iterator[tuple[int, int, int]]:
    """(start, stop, bytes) of runs of a tensor in any number format, which is only copied."""
    for start in range(0, entry.size, _RUN):
        stop = min(start + _RUN, entry.size)
        yield start, stop, stop - start


def _rows_of(entry: Entry) -> Iterator[tuple[int, int, int]]:
    """(first row, row after the last, bytes) of runs of rows; a scalar is one row."""
    rows = entry.shape[0] if entry.shape else 1
    step = max(1, _RUN // max(1, entry.row))
    for start in range(0, rows if entry.size else 0, step):
        stop = min(start + step, rows)
        yield start, stop, (stop - start) * entry.row


def _bytes(raw: Tensor) -> memoryview:
    array: Any = raw.numpy()
    return memoryview(array)


def _fill(source: BufferedReader, raw: Tensor, shard: Shard) -> None:
    if source.readinto(_bytes(raw)) != len(raw):
        raise CheckpointError(f"'{shard.path}' ended while it was read: is it being written?")


def _scale_(plan: Analysis, numbers: Tensor, entry: Entry, start: int, stop: int, raw: Tensor) -> None:
    """Scale rows of a tensor in place."""
    shape = (stop - start, *entry.shape[1:]) if entry.shape else ()
    positions = [torch.arange(start, stop)] if entry.shape else []
    tensor = raw.view(_DTYPES[entry.dtype]).view(shape)
    plan.recipe.part({entry.name: positions}).scale_({entry.name: tensor}, numbers)
