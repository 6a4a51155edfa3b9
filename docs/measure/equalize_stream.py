"""Measure equalising a checkpoint on disk: statistics gathered once, and the checkpoint streamed into the new basis.

    python docs/measure/equalize_stream.py FOLDER [LAYERS]

Makes the checkpoint of `stream.py` in FOLDER (0.4 GB a layer), moves it by a random change of basis, equalises what
came out with the network on the meta device, and streams the result. Needs three times the checkpoint.
"""

from __future__ import annotations

import resource
import sys
import time
from multiprocessing import Process
from pathlib import Path

import torch
from stream import make

import fxteleport as ft


def main(folder: Path, layers: int) -> None:
    """Print seconds and peak memory of each part."""
    folder.mkdir(exist_ok=True)
    maker = Process(target=make, args=(folder, layers))  # its memory is not that of this process
    maker.start()
    maker.join()
    scope: dict[str, object] = {}
    exec((folder / "net.py").read_text(), scope)
    with torch.device("meta"):
        model = scope["Decoder"](layers)  # type: ignore[operator]
    start = time.perf_counter()

    def told(what: str) -> None:
        nonlocal start
        now, memory = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{what:34} {now - start:7.1f} s {time.process_time():7.1f} s of processor, peak {memory:.2f} GiB",
            flush=True,
        )
        start = time.perf_counter()

    plan = ft.plan(model, scope["example_inputs"](), mode="weights")  # type: ignore[operator]
    told(f"plan, {plan.num_free} free values")
    random = torch.Generator().manual_seed(0)
    powers = torch.randint(-2, 3, (plan.num_free,), generator=random).double()
    ft.stream(plan, plan.cob(powers.exp2()), folder / "source", folder / "moved")
    size = sum(f.stat().st_size for f in (folder / "moved").iterdir())
    told(f"moved, {size / 1e9:.2f} GB")
    found = ft.equalized(plan, "range", weights=ft.checkpoint_tensors(plan, folder / "moved"))
    told("equalised (range)")
    ft.stream(plan, found.cob, folder / "moved", folder / "equalised")
    told("streamed")
    print(
        f"objective {found.before:.0f} -> {found.after:.0f}, noise {found.noise_before:.3g} -> {found.noise_after:.3g}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
