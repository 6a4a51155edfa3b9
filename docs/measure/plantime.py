"""Planning time of two versions: python docs/measure/plantime.py TREE TREE NAME... (TREE: a checkout; NAME: of timm).

Each version has a process of its own, and they take turns, plan by plan: what else the machine does concerns both.
For each name, on one thread: the least CPU time of each, and the median of the ratios of neighbouring plans.
"""

import os
import statistics
import subprocess
import sys

TURNS = 21
PLANNER = """
import gc, sys, time, warnings
import timm, torch
import fxteleport as ft

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
for name in map(str.strip, sys.stdin):
    if name:
        model, x = timm.create_model(name).eval(), torch.randn(1, 3, 224, 224)
        ft.plan(model, x)
    gc.collect()
    start = time.process_time()
    ft.plan(model, x)
    print(time.process_time() - start, flush=True)
"""


def planner(tree: str) -> subprocess.Popen[str]:
    """A process that plans with the version in a checkout: told a name, that model, and told nothing, it again."""
    environment = {**os.environ, "PYTHONPATH": os.path.abspath(tree), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PLANNER]
    return subprocess.Popen(command, cwd=tree, env=environment, stdin=-1, stdout=-1, text=True)


def seconds(process: subprocess.Popen[str], name: str = "") -> float:
    """How long one plan takes there."""
    assert process.stdin is not None and process.stdout is not None
    print(name, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def main() -> None:
    """Print a line a name."""
    *trees, first = sys.argv[1:4]
    both = [planner(tree) for tree in trees]
    for name in [first, *sys.argv[4:]]:
        for process in both:
            seconds(process, name)
        turns = [[seconds(process) for process in both] for _ in range(TURNS)]
        a, b = (min(side) * 1e3 for side in zip(*turns, strict=True))
        ratio = statistics.median(b / a for a, b in turns)
        print(f"{name:32s} {a:7.1f} {b:7.1f} ms, ratio {ratio:.3f}", flush=True)


if __name__ == "__main__":
    main()
