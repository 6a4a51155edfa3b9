"""Files from others: no code in them runs, no size in them is believed, and what is wrong is an error of the project's.

The fuzzing tests feed every reader random bytes, mutated, truncated and rebuilt valid files. Only a valid result or an
error of the project's own may come out, in little time and little memory.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxteleport as ft
from fxteleport.atomic_files import read_json
from fxteleport.tensor_files import read_pickled, read_tensors, write_tensors
from fxteleport.tools.experiments import sweep
from fxteleport.tools.models import images, load
from fxteleport.tools.survey import network_survey, rows_file
from fxteleport.tools.survey.row import Row, Terms

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
SECONDS, MEGABYTES = 5.0, 600


def mlp() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    ft.randomize(model)
    return model.eval()


MODEL = mlp()
RUN = {"model": "mlp", "seed": 0}


# -- the readers -----------------------------------------------------------------------------------------


@lru_cache
def valid_files(folder: Path) -> dict[str, bytes]:
    """One valid file of each kind, by the reader that it is for."""
    plan = ft.plan(MODEL, X)
    weights, cob, description = ft.save(folder / "net", plan.rewrite(plan.sample(seed=0)), "mlp")
    torch.save(MODEL.state_dict(), folder / "net.pt")
    write_tensors(folder / "plain.safetensors", MODEL.state_dict(), {})
    rows_file.write_rows(folder / "rows.csv", [network_survey.survey("test_resnet", Terms(seed=0))])
    from PIL import Image

    Image.new("RGB", (9, 7), (10, 20, 30)).save(folder / "picture.png")
    return {
        "load: weights": weights.read_bytes(),
        "load: cob": cob.read_bytes(),
        "load: description": description.read_bytes(),
        "cob": cob.read_bytes(),
        "state .safetensors": (folder / "plain.safetensors").read_bytes(),
        "state .pt": (folder / "net.pt").read_bytes(),
        "coverage": (folder / "rows.csv").read_bytes(),
        "sweep": b'{"run": {"model": "mlp", "seed": 0}, "rows": [{"loss": 1.5}]}\n',
        "json": b'{"a": [1, 2.5, null, true, "x"]}',
        "picture": (folder / "picture.png").read_bytes(),
    }


def read(kind: str, data: bytes, folder: Path) -> Any:
    """Write a file and have its reader read it; whatever comes back is checked for being valid."""
    if kind.startswith("load"):
        suffix = {"weights": ".safetensors", "cob": ".cob.safetensors", "description": ".json"}[kind.split()[1]]
        for part, other in (("weights", ".safetensors"), ("cob", ".cob.safetensors"), ("description", ".json")):
            (folder / f"net{other}").write_bytes(valid_files(folder)[f"load: {part}"])
        (folder / f"net{suffix}").write_bytes(data)
        assert ft.load(folder / "net", MODEL)(X).shape == (4, 3)
        return
    if kind == "sweep":
        (folder / sweep.file_name("fuzz", RUN)).write_bytes(data)
        assert sweep.gather("fuzz", [RUN], folder).total == 1
        return
    file = folder / {"state .pt": "x.pt", "picture": "x.png"}.get(kind, "x.safetensors")
    file.write_bytes(data)
    if kind == "cob":
        assert ft.ChangeOfBasis.load(file).values.ndim == 1
    elif kind.startswith("state"):
        load.load_state(mlp(), file)
    elif kind == "coverage":
        assert all(isinstance(row, Row) for row in rows_file.read_rows(file))
    elif kind == "json":
        assert isinstance(read_json(file), dict)
    else:
        assert images.read_picture(file, 3).mode == "RGB"


KINDS = (
    "load: weights", "load: cob", "load: description", "cob", "state .safetensors", "state .pt", "coverage", "sweep",
    "json", "picture",
)  # fmt: skip


# -- what they are fed -----------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([10**6, 2**31, 2**63, 10**400, -1, 0]), st.floats(),
    st.text(max_size=8),
    st.sampled_from(["full", "weights", "float32", "tensor", "F64", "BF16", "F4", "../../x", "os.system", "__class__"]),
)  # fmt: skip
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=8
)


def places(x: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a JSON value."""
    items = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    return [path, *(p for k, v in items for p in places(v, (*path, k)))]


def replaced(x: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = x.copy()
    copy[path[0]] = replaced(x[path[0]], path[1:], value)
    return copy


@st.composite
def rebuilt(draw: st.DrawFn, kind: str, valid: bytes) -> bytes:
    """The structure changed, the form kept: a JSON value, or the header of a safetensors file, its length right."""
    weights = kind in ("load: weights", "load: cob", "cob", "state .safetensors")
    if not weights and kind not in ("load: description", "sweep", "json"):
        return valid
    size = struct.unpack("<Q", valid[:8])[0] if weights else 0
    facts = json.loads(valid[8 : 8 + size] if weights else valid)
    for _ in range(draw(st.integers(1, 3))):
        facts = replaced(facts, draw(st.sampled_from(places(facts))), draw(values))
    text = json.dumps(facts).encode()
    return struct.pack("<Q", len(text)) + text + valid[8 + size :] if weights else text


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes changed, cut out, doubled or cut off."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.sampled_from(["flip", "overwrite", "insert", "remove", "double", "truncate"]))
        if how == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how in ("overwrite", "insert"):
            piece = draw(st.binary(min_size=1, max_size=9))
            data[at : at + (len(piece) if how == "overwrite" else 0)] = piece
        elif how == "truncate":
            del data[at:]
        else:
            end = at + draw(st.integers(1, 64))
            data[at:end] = b"" if how == "remove" else data[at:end] * 2
    return bytes(data)


def fuzz(kind: str, folder: Path, examples: int) -> int:
    """Feed one reader; returns how many inputs it took."""
    valid = valid_files(folder)[kind]
    inputs = st.one_of(st.binary(max_size=300), mutated(valid), mutated(valid), rebuilt(kind, valid))
    count = 0

    @settings(max_examples=examples)
    @given(inputs)
    def feed(data: bytes) -> None:
        nonlocal count
        count += 1
        start = time.perf_counter()
        try:
            read(kind, data, folder)
        except ft.TeleportError as error:
            assert str(error)
        assert time.perf_counter() - start < SECONDS

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read(kind, valid, folder)
    feed()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1000
    return count


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_fuzz(kind: str, tmp_path: Path) -> None:
    assert fuzz(kind, tmp_path, 40) >= 40


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_fuzz_long(tmp_path: Path) -> None:
    assert sum(fuzz(kind, tmp_path, 1500) for kind in KINDS) >= 10_000


# -- code in files ---------------------------------------------------------------------------------------


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.proof, "it ran")


def archive_with(pickled: bytes, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """A torch archive whose pickle is replaced."""
    held = io.BytesIO()
    torch.save({"0.weight": torch.zeros(8, 6)}, held)
    with zipfile.ZipFile(held) as old, zipfile.ZipFile(path, "w", compression) as new:
        for member in old.infolist():
            new.writestr(member.filename, pickled if member.filename.endswith("data.pkl") else old.read(member))
    return path


@pytest.mark.parametrize("form", ["archive", "torch.save", "pickle"])
def test_no_pickle_runs(form: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    for suffix in (".pt", ".pth", ".safetensors", ".json", ".csv", ".png"):
        file = tmp_path / f"evil{suffix}"
        if form == "archive":
            archive_with(pickle.dumps({"0.weight": Evil(proof)}), file)
        elif form == "torch.save":
            torch.save({"state_dict": {"0.weight": Evil(proof)}}, file)
        else:
            file.write_bytes(pickle.dumps(Evil(proof)))
        readers: list[Callable[[], Any]] = [
            lambda f=file: load.load_state(mlp(), f),
            lambda f=file: read_pickled(f),
            lambda f=file: ft.load(f, MODEL),
            lambda f=file: ft.ChangeOfBasis.load(f),
            lambda f=file: rows_file.read_rows(f),
            lambda f=file: images.read_picture(f, 3),
        ]  # type: ignore[misc]
        for reader in readers:
            with pytest.raises(ft.TeleportError):
                reader()
    assert not proof.exists()
    pickle.loads(pickle.dumps(Evil(proof)))
    assert proof.exists()  # the trap works


# -- sizes in files --------------------------------------------------------------------------------------


def header(facts: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(facts).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


TENSORS: dict[str, bytes] = {
    "a header of 2**63 bytes": header({}, length=2**63),
    "a header longer than the file": header({}, length=10**8),
    "a shape beyond the data": header({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}, b"0000"),
    "a shape that overflows": header({"x": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"0000"),
    "data beyond the file": header({"x": {"dtype": "F32", "shape": [2**30], "data_offsets": [0, 2**32]}}, b"0000"),
    "data before the file": header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"0000"),
    "data that overlap": header(
        {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in ("x", "y")}, b"0000"
    ),
    "an unknown format": header({"x": {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
    "metadata that are no strings": header({"__metadata__": {"cob": [1]}}),
    "a header that is deep": struct.pack("<Q", 10**5) + b"[" * 10**5,
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_malicious_safetensors(name: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(TENSORS[name])
    for reader in (read_tensors, ft.ChangeOfBasis.load, lambda f: load.load_state(mlp(), f)):
        with pytest.raises(ft.CheckpointError, match=r"x\.safetensors"):
            reader(file)


def test_an_archive_over_several_disks(tmp_path: Path) -> None:
    """`zipfile.is_zipfile` raises there instead of answering."""
    file = tmp_path / "x.pt"
    torch.save({"0.weight": torch.zeros(8, 6)}, file)
    data = bytearray(file.read_bytes())
    locator = data.rindex(b"PK\x06\x07")
    data[locator + 16] = 3
    file.write_bytes(data)
    with pytest.raises(ft.CheckpointError, match="corrupt"):
        read_pickled(file)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    valid_files(tmp_path)
    return tmp_path / "net"


def tensor(*shape: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "value": {"tensor": list(shape), "dtype": "float32"}}]}


DESCRIPTIONS: dict[str, dict[str, Any]] = {
    "an input of 4 TB": tensor(10**12),
    "an input that overflows": tensor(2**40, 2**40),
    "an input of 10,000 axes": tensor(*[1] * 10_000),
    "an input of negative size": tensor(-1, 6),
    "an input of text": tensor("6"),
    "a huge input_size": {"input_size": [3, 10**9, 10**9]},
    "an input_size of text": {"input_size": ["a"]},
    "another mode": {"mode": "evil"},
    "a format that is a function": {"dtype": "load"},
    "an argument of another name": {"inputs": [{"name": "self", "value": {"plain": 1}}]},
    "an argument without a name": {"inputs": [{"name": None, "value": {"tensor": [4, 6], "dtype": "float32"}}]},
    "no inputs": {"inputs": []},
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_malicious_descriptions(name: str, saved: Path) -> None:
    file = saved.with_name("net.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | DESCRIPTIONS[name]))
    with pytest.raises(ft.TeleportError):
        ft.load(saved, MODEL)


def test_json_too_deep(saved: Path) -> None:
    saved.with_name("net.json").write_text('{"a":' + "[" * 10**6)
    with pytest.raises(ft.CheckpointError, match=r"net\.json"):
        ft.load(saved, MODEL)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """A file of kilobytes could be gigabytes when it is read."""
    file = archive_with(b"0" * 10**7, tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 10**5
    with pytest.raises(ft.CheckpointError, match="compressed"):
        load.load_state(mlp(), file)


def test_an_archive_of_old_is_refused(tmp_path: Path) -> None:
    """It says how much memory it wants before it is known whether it has as much to put there."""
    torch.save(mlp().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ft.CheckpointError, match=r"torch 1\.6"):
        load.load_state(mlp(), tmp_path / "old.pt")


def test_a_tensor_larger_than_its_data(tmp_path: Path) -> None:
    """An archive may name any size: what is not in the file is not made."""
    held = io.BytesIO()
    torch.save({"0.weight": torch.zeros(8, 6)}, held)
    with zipfile.ZipFile(held) as archive:
        pickled = next(archive.read(m) for m in archive.infolist() if m.filename.endswith("data.pkl"))
    huge = pickled.replace(b"K\x08K\x06\x86", b"J\xff\xff\xff\x3fK\x06\x86")  # the shape (8, 6): (2**30 - 1, 6)
    assert huge != pickled
    with pytest.raises(ft.CheckpointError):
        load.load_state(mlp(), archive_with(huge, tmp_path / "huge.pt"))


# -- paths -----------------------------------------------------------------------------------------------


def test_names_in_files_are_no_paths(tmp_path: Path) -> None:
    """What a network or a tensor is called decides about no file."""
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    plan = ft.plan(MODEL, X)
    spec = "../../../outside"
    ft.save(folder / "net", plan.rewrite(plan.sample(seed=0)), spec)
    assert ft.load(folder / "net", MODEL)(X).shape == (4, 3)
    assert "/" not in sweep.file_name(spec, {"model": spec})
    sweep.sweep("../up", lambda run: [{"loss": 1.0}], [{"model": spec}], folder)
    assert {f.parent for f in tmp_path.rglob("*") if f.is_file()} == {folder}


def test_a_link_is_followed_as_the_system_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link at the path that the user gives stays, and its target is replaced whole. One that the system does not
    follow (of another user, in a folder that all may write to) is refused before anything is written."""
    target, link = tmp_path / "target", tmp_path / "out" / "net.json"
    target.write_text("old")
    link.parent.mkdir()
    link.symlink_to(target)
    plan = ft.plan(MODEL, X)
    network = plan.rewrite(plan.sample(seed=0))
    ft.save(tmp_path / "out" / "net", network, "mlp")
    assert link.is_symlink() and ft.load(tmp_path / "out" / "net", model=MODEL) is not None

    def refused(path: object, *args: object, **more: object) -> os.stat_result:
        if os.fspath(path) == str(link):  # type: ignore[call-overload]
            raise PermissionError(13, "Permission denied")
        return stat(path, *args, **more)  # type: ignore[arg-type]

    stat = os.stat
    written = target.read_text()
    monkeypatch.setattr("fxteleport.atomic_files.os.stat", refused)
    with pytest.raises(ft.CheckpointError, match="Permission denied"):
        ft.save(tmp_path / "out" / "net", network, "another")
    assert target.read_text() == written
