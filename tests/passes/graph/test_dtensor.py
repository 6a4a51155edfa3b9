"""Sharded models: every process scales its own shards as one process scales the whole, and says nothing to the others.

The file is also the program of those processes: `python test_sharded.py RANK PROCESSES FOLDER`.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxteleport as ft

SIZES = [2, pytest.param(4, marks=pytest.mark.slow)]
CASES: dict[str, Callable[[int, int], Any]] = {}


def case(run: Callable[[int, int], Any]) -> Callable[[int, int], Any]:
    CASES[run.__name__] = run
    return run


class Net(nn.Module):
    """Convolutions, norms and attention of sizes that no number of processes divides; a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 7, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.mix = nn.Conv2d(7, 1, 1)
        self.up = nn.Linear(1, 10)
        self.heads = nn.MultiheadAttention(10, 2, batch_first=True)
        self.a = nn.Linear(10, 9)
        self.b = nn.Linear(9, 9, bias=False)
        self.c = nn.Linear(9, 9, bias=False)
        self.c.weight = self.b.weight
        self.scale = nn.Parameter(torch.ones(1))
        self.out = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(torch.relu(self.norm(self.stem(x)))).flatten(2).transpose(1, 2)
        x = self.up(x)
        x = self.heads(x, x, x)[0]
        return self.out(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))) * self.scale).mean(1)


X = torch.zeros(2, 3, 4, 4)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    return ft.randomize(Net().eval()).to(dtype)


def without_values(model: nn.Module) -> nn.Module:
    """A copy on meta, tied as the model is, which `.to("meta")` would forget."""
    made = copy.deepcopy(model).to("meta")
    made.c.weight = made.b.weight
    return made


def scaled(
    shard: Callable[[nn.Module], Any], dtype: torch.dtype = torch.float32, norm_stats: str = "fixed"
) -> dict[str, Any]:
    """What apply_ did to a model that was sharded, compared with what it does to the whole."""
    from torch.distributed.tensor.debug import CommDebugMode

    whole, model = network(dtype), network(dtype)
    plan = ft.plan(without_values(whole), X.to("meta", dtype), mode="weights", norm_stats=norm_stats)
    cob = plan.sample(0.9, "inter", seed=3)
    plan.apply_(cob, whole)
    shard(model)
    before = snapshot(model)
    with CommDebugMode() as spoken:
        plan.apply_(cob, model)
    after, expected = snapshot(model), whole.state_dict()
    return {
        "spoken": spoken.get_total_counts(),
        "sharded": sum(type(p).__name__ == "DTensor" for p in model.parameters()),
        "moved": sum(not torch.equal(after[n], before[n]) for n in after),
        "different": [n for n in after if not torch.equal(after[n], expected[n])],
    }


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """The whole of every tensor: the processes speak here."""
    return {
        n: (t.full_tensor() if type(t).__name__ == "DTensor" else t).detach().clone()
        for n, t in model.state_dict().items()
    }


def fsdp(model: nn.Module, size: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (size,))
    for part in (model.heads, model.a):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)


def place(model: nn.Module, shape: tuple[int, ...], placements: Callable[[Tensor], list[Any]]) -> None:
    """Every parameter as a DTensor."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    mesh = init_device_mesh("cpu", shape, mesh_dim_names=tuple("pq"[: len(shape)]))
    seen: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                if id(p) not in seen:
                    seen[id(p)] = nn.Parameter(distribute_tensor(p.data, mesh, placements(p)))
                setattr(module, name, seen[id(p)])


@case
def fully_sharded(rank: int, size: int) -> Any:
    return scaled(lambda m: fsdp(m, size))


@case
def fully_sharded_bfloat16(rank: int, size: int) -> Any:
    return scaled(lambda m: fsdp(m, size), torch.bfloat16)


@case
def fully_sharded_statistics(rank: int, size: int) -> Any:
    return scaled(lambda m: fsdp(m, size), torch.float64, "rescaled")


@case
def by_columns(rank: int, size: int) -> Any:
    from torch.distributed.tensor import Shard

    return scaled(lambda m: place(m, (size,), lambda p: [Shard(min(1, p.ndim - 1))]))


@case
def replicated(rank: int, size: int) -> Any:
    from torch.distributed.tensor import Replicate

    return scaled(lambda m: place(m, (size,), lambda p: [Replicate()]))


@case
def on_two_axes(rank: int, size: int) -> Any:
    from torch.distributed.tensor import Shard

    return scaled(lambda m: place(m, (2, size // 2), lambda p: [Shard(0), Shard(p.ndim - 1)]))


@case
def tensor_parallel_and_fully_sharded(rank: int, size: int) -> Any:
    """FSDP cuts what tensor parallelism has cut on the same axis: shards that are not one run of rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    def shard(model: nn.Module) -> None:
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("data", "tensor"))
        parallelize_module(model, mesh["tensor"], {"a": ColwiseParallel(), "out": RowwiseParallel()})
        for part in (model.a, model.out):
            fully_shard(part, mesh=mesh["data"])

    return scaled(shard)


@case
def again_and_back(rank: int, size: int) -> Any:
    """The planned model itself, after a forward that leaves gathered weights behind; then back."""
    model = network()
    plan = ft.plan(model, X, mode="weights")
    fsdp(model, size)
    before = snapshot(model)
    cob = plan.sample(0.9, exact=True, seed=3)
    y = model(X)
    for _ in range(2):
        plan.apply_(cob)
        same = torch.equal(model(X), y)
    moved = snapshot(model)
    for _ in range(2):
        with torch.no_grad():
            model(X)
        plan.apply_(cob.inverse())
    after = snapshot(model)
    return {
        "same_function": same,
        "moved": sum(not torch.equal(moved[n], before[n]) for n in before),
        "restored": all(torch.equal(after[n], before[n]) for n in before),
    }


@case
def alone(rank: int, size: int) -> Any:
    """One process applies, the others do nothing: had it to wait for them, it would wait for ever."""
    model = network()
    plan = ft.plan(model, X, mode="weights")
    fsdp(model, size)
    if rank == 0:
        plan.apply_(plan.sample(0.9, seed=3))
    return True


@case
def partial(rank: int, size: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial

    model = network()
    plan = ft.plan(model, X, mode="weights")
    mesh = init_device_mesh("cpu", (size,))
    model.a.weight = nn.Parameter(DTensor.from_local(model.a.weight.data, mesh, [Partial()]))
    try:
        plan.apply_(plan.sample(seed=0))
    except ft.ModelError as error:
        return str(error)


@case
def planned_too_late(rank: int, size: int) -> Any:
    model = network()
    fsdp(model, size)
    try:
        ft.plan(model, X, mode="weights")
    except ft.ModelError as error:
        return str(error)


# -- the tests -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SIZES, ids=lambda n: f"{n} processes")
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every process found: case -> its result."""
    folder = tmp_path_factory.mktemp("sharded")
    paths = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, __file__, str(rank), str(request.param), str(folder)] for rank in range(request.param)]
    running = [subprocess.Popen(c, env=environment, stderr=subprocess.PIPE, text=True) for c in commands]
    try:
        errors = [process.communicate(timeout=600)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert not any(process.returncode for process in running), "\n".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


SCALED = [
    "fully_sharded", "fully_sharded_bfloat16", "fully_sharded_statistics", "by_columns", "replicated", "on_two_axes",
    "tensor_parallel_and_fully_sharded",
]  # fmt: skip


@pytest.mark.parametrize("name", SCALED)
def test_equals_one_process_without_a_word(results: list[dict[str, Any]], name: str) -> None:
    for found in results:
        assert found[name]["different"] == []
        assert found[name]["spoken"] == 0
        assert found[name]["moved"] > 8
        assert found[name]["sharded"] >= 4


def test_after_a_forward_and_back(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert found["again_and_back"]["same_function"]
        assert found["again_and_back"]["moved"] > 8
        assert found["again_and_back"]["restored"]


def test_one_process_waits_for_no_other(results: list[dict[str, Any]]) -> None:
    assert all(found["alone"] for found in results)


def test_a_partial_sum_is_an_error(results: list[dict[str, Any]]) -> None:
    assert "'a.weight' is a DTensor placed as P" in results[0]["partial"]


def test_planning_a_sharded_model_is_an_error(results: list[dict[str, Any]]) -> None:
    assert "plan the model before it is" in results[0]["planned_too_late"]


def test_nothing_distributed_is_imported() -> None:
    command = "import sys, fxteleport; print([m for m in sys.modules if m.startswith('torch.distributed.tensor')])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- a process -------------------------------------------------------------------------------------------


def main(rank: int, size: int, folder: Path) -> None:
    import torch.distributed as dist

    torch.manual_seed(0)
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), size), rank=rank, world_size=size)
    found = {}
    for name, run in CASES.items():
        found[name] = run(rank, size)
        dist.barrier()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
