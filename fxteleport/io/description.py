"""The description of a saved network, `X.json`: the plan's model, inputs and settings as plain data."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from fxteleport.atomic_files import read_json, write_text
from fxteleport.io.example_inputs import require_size
from fxteleport.passes.errors import CheckpointError
from fxteleport.plan.choices import MODES, NORM_STATS, NORMS

FORMAT = 2  # in 1, the state dict did not hold the CoBs of operations
_KIND = "fxteleport network"
_BEFORE_FORMAT_2: dict[str, Any] = {"format": 1, "extra_state": {}}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "format": int, "id": str, "model": str, "mode": str, "norm_stats": str, "input_size": (list, type(None)),
    "inputs": list, "dtype": str, "extra_state": dict, "fingerprint": str, "versions": dict,
}  # fmt: skip


@dataclass(frozen=True)
class Description:
    """The plan of a saved network, as plain data.

    Attributes:
        format: the version of the files' layout.
        id: a hash of the change of basis, which all three files hold.
        model: a timm name, "torchvision/NAME", or another text, by which `load` cannot build it.
        mode, norm_stats, data_guards, norms, fingerprint: of the plan.
        input_size: (C, H, W) that the model was built for, where that is not its default.
        inputs: the example inputs without their values (see `example_inputs.py`).
        dtype: the number format of the parameters.
        extra_state: of modules that have one (`get_extra_state`).
        settings: a hash of the modules' settings; None in files of earlier versions.
        versions: of the packages that built the model and the plan.
    """

    format: int
    id: str
    model: str
    mode: str
    norm_stats: str
    input_size: list[int] | None
    inputs: list[dict[str, Any]]
    dtype: str
    extra_state: dict[str, Any]
    fingerprint: str
    settings: str | None
    versions: dict[str, str]
    data_guards: bool
    norms: str = "exact"

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_text(path, json.dumps({"kind": _KIND, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Description:
        """Read what `write` wrote.

        Raises:
            CheckpointError: the file is missing, corrupt, of a newer version, or describes something else.
        """
        facts: dict[str, Any] = _BEFORE_FORMAT_2 | read_json(path)
        if facts.get("kind") != _KIND or not all(isinstance(facts.get(k, 0), t) for k, t in _TYPES.items()):
            raise CheckpointError(f"'{path}' describes no teleported network: pass a file that fxteleport.save wrote")
        if facts["format"] not in (1, FORMAT):
            raise CheckpointError(
                f"'{path}' has format {facts['format']}, which this version does not know: use a newer one"
            )
        if facts["mode"] not in MODES or facts["norm_stats"] not in NORM_STATS:
            raise CheckpointError(f"'{path}' names a mode or norm statistics that do not exist: it is corrupt")
        norms = facts.get("norms", "exact")
        if norms not in NORMS:
            raise CheckpointError(f"'{path}' names a treatment of norms that does not exist: it is corrupt")
        if facts["input_size"] is not None:
            require_size(facts["input_size"])
        guards = facts.get("data_guards", True) is not False
        known = {"settings": facts.get("settings"), "data_guards": guards, "norms": norms}
        return cls(**known, **{name: facts[name] for name in _TYPES})


@functools.cache
def installed_versions() -> dict[str, str]:
    """The versions of the packages that a model and its plan come from."""
    installed = metadata.packages_distributions()
    names = ("fxteleport", "torch", "timm", "torchvision")
    return {name: metadata.version(name) if name in installed else "none" for name in names}


def versions_text(versions: dict[str, str]) -> str:
    """Versions in a message."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
