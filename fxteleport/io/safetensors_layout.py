"""Shards: a checkpoint on disk as Hugging Face lays it out, by its headers alone.

A folder with `*.safetensors.index.json` and the shards that it names, a folder with `model.safetensors`, or one
safetensors file. No tensor is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxteleport.atomic_files import read_json
from fxteleport.passes.errors import CheckpointError

_INDEX = ".safetensors.index.json"
_WHOLE = "model.safetensors"


@dataclass(frozen=True)
class Entry:
    """A tensor in a shard: its number format by safetensors' name for it, its shape, and its length in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int

    @property
    def row(self) -> int:
        """The bytes of one position of the first axis; of a scalar all."""
        return self.size // max(1, self.shape[0]) if self.shape else self.size


@dataclass(frozen=True)
class Shard:
    """A safetensors file.

    Attributes:
        header: its first bytes, metadata included; a copy of the file with data of the same lengths begins with them.
        entries: its tensors in the order of their bytes.
    """

    path: Path
    header: bytes
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return len(self.header) + sum(e.size for e in self.entries)


@dataclass(frozen=True)
class Layout:
    """A checkpoint: its shards, and the index that names them (None: one file is all)."""

    source: Path
    shards: tuple[Shard, ...]
    index: Path | None

    @property
    def size(self) -> int:
        """The bytes of all shards."""
        return sum(s.size for s in self.shards)

    def entries(self) -> Iterator[Entry]:
        """The tensors of all shards."""
        for shard in self.shards:
            yield from shard.entries


def read_layout(source: str | Path) -> Layout:
    """Read the headers of a checkpoint.

    Raises:
        CheckpointError: a file is missing or corrupt, or the index and the shards disagree.
    """
    path = Path(source)
    if path.is_file():
        return Layout(path, (read_shard(path),), None)
    if not path.is_dir():
        raise CheckpointError(f"there is no checkpoint '{path}'")
    indices = sorted(path.glob(f"*{_INDEX}"))
    if len(indices) > 1:
        raise CheckpointError(f"'{path}' holds {len(indices)} checkpoints: keep one of {', '.join(_names(indices))}")
    if not indices and (path / _WHOLE).is_file():
        return Layout(path, (read_shard(path / _WHOLE),), None)
    if not indices:
        raise CheckpointError(f"'{path}' holds neither a *{_INDEX} nor a {_WHOLE}")
    return _indexed(path, indices[0])


def read_shard(path: Path) -> Shard:
    """Read the header of a safetensors file; safetensors itself checks it, against the file's length too.

    Raises:
        CheckpointError: it is missing or corrupt.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt"), path.open("rb") as file:
            length = file.read(8)
            header = length + file.read(int.from_bytes(length, "little"))
            facts = json.loads(header[8:])
    except FileNotFoundError:
        raise CheckpointError(f"there is no file '{path}'") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is not a readable safetensors file: {error}") from None
    tensors = {name: fact for name, fact in facts.items() if name != "__metadata__"}
    order = sorted(tensors, key=lambda name: tensors[name]["data_offsets"])
    return Shard(path, header, tuple(_entry(name, tensors[name]) for name in order))


def _entry(name: str, fact: dict[str, Any]) -> Entry:
    start, stop = fact["data_offsets"]
    return Entry(name, fact["dtype"], tuple(fact["shape"]), stop - start)


def _indexed(folder: Path, index: Path) -> Layout:
    named_in = read_json(index).get("weight_map")
    if not isinstance(named_in, dict) or not named_in or not all(isinstance(p, str) for p in named_in.values()):
        raise CheckpointError(f"'{index}' has no weight_map from the tensors to their files")
    files = sorted(set(named_in.values()))
    for file in files:
        if Path(file).name != file:
            raise CheckpointError(f"'{index}' names the file '{file}', which is not in its own folder")
    shards = tuple(read_shard(folder / file) for file in files)
    held_in = {entry.name: shard.path.name for shard in shards for entry in shard.entries}
    for name, file in named_in.items():
        if held_in.get(name) != file:
            raise CheckpointError(f"'{index}' names the tensor '{name}' in {file}, which does not hold it")
    for name, file in held_in.items():
        if name not in named_in:
            raise CheckpointError(f"{file} holds the tensor '{name}', which '{index}' does not name")
    return Layout(folder, shards, index)


def _names(paths: list[Path]) -> list[str]:
    return [p.name for p in paths]
