"""How long plans of timm's models take: python docs/measure/plantime.py NAME... (with PYTHONPATH=TREE, in that tree).

For each name the least CPU time of six plans, in milliseconds, on one thread. Two versions are compared by running this
in both of their trees, in turn.
"""

import gc
import sys
import time
import warnings

import timm
import torch

import fxteleport as ft

warnings.filterwarnings("ignore")
for name in sys.argv[1:]:
    torch.manual_seed(0)
    model, x = timm.create_model(name).eval(), torch.randn(1, 3, 224, 224)
    times = []
    for _ in range(6):
        gc.collect()
        start = time.process_time()
        plan = ft.plan(model, x)
        times.append(time.process_time() - start)
    print(f"{name:32s} {min(times) * 1e3:6.1f} ms, {plan.num_free} free", flush=True)
