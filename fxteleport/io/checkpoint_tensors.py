"""The tensors of a checkpoint on disk as a mapping: each is read on access, and not kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from fxteleport.checked import checked
from fxteleport.io.safetensors_layout import read_layout
from fxteleport.io.stream import fits
from fxteleport.passes.errors import CheckpointError
from fxteleport.plan.analysis import Analysis


@checked
def checkpoint_tensors(plan: Analysis, source: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint on disk, for `equalize(plan, weights=...)`: none is kept in memory.

    Args:
        plan: of the model, which may be on the meta device.
        source: as `stream` takes it: a folder or a safetensors file.

    Raises:
        CheckpointError: the source is missing, corrupt, or of another model.
    """
    return CheckpointTensors(plan, source)


class CheckpointTensors(Mapping[str, Tensor]):
    """The planned model's tensors by name, as `source` holds them.

    Args:
        plan: of the model.
        source: as `fxteleport.stream` takes it.

    Raises:
        CheckpointError: the source is missing, corrupt, or of another model.
    """

    def __init__(self, plan: Analysis, source: str | Path) -> None:
        layout = read_layout(source)
        fits(plan, layout)
        canonical = plan.captured.canonical
        self.places: dict[str, tuple[Path, str]] = {}  # a tensor's first name -> its shard, its name there
        for shard in layout.shards:
            for entry in shard.entries:
                if entry.name in canonical:
                    self.places.setdefault(canonical[entry.name], (shard.path, entry.name))

    def __getitem__(self, name: str) -> Tensor:
        path, own = self.places[name]
        try:
            with safe_open(path, "pt") as held:
                tensor: Tensor = held.get_tensor(own)
        except OSError as error:
            raise CheckpointError(f"'{path}' cannot be read: {error}") from None
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
