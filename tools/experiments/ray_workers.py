"""Ray instead of `WorkerPool`: the processes of a cluster of machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from fxteleport.passes.errors import InputError
from fxteleport.tools.worker_pool import TRIES, Failure, ProcessDiedError

R = TypeVar("R")


def run_all(
    function: Callable[..., R], arguments: Sequence[Sequence[Any]], workers: int, num_gpus: float
) -> Iterator[tuple[int, R | Failure]]:
    """`WorkerPool.run`, on the cluster of RAY_ADDRESS, else on one of this machine that ends with the last call.

    Args:
        workers: processes at a time of a cluster of this machine.
        num_gpus: that one call takes.

    Raises:
        InputError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise InputError('--engine ray needs Ray: pip install "fxteleport[ray]"') from None
    own = not ray.is_initialized()
    if own:
        here: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, **here)
    try:
        remote = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=TRIES - 1)(function)
        running = {remote.remote(*each): i for i, each in enumerate(arguments)}
        while running:
            for call in ray.wait(list(running))[0]:
                yield running.pop(call), _result(call)
    finally:
        if own:
            ray.shutdown()


def _result(call: Any) -> Any:
    import ray
    from ray import exceptions

    try:
        return ray.get(call)
    except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError) as error:
        return Failure(ProcessDiedError(f"its process died ({type(error).__name__})"))
    except exceptions.RayTaskError as error:
        return Failure(error.cause)
