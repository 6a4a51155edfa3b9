"""torch's own samples of its operations and layers (`torch_samples.py`), exported: every ATen overload that they call.

    python tests/oracles/exported_samples.py

Each sample's network is planned as it is and as `torch.export` gives it, a graph of ATen overloads: what is opaque
there is opaque in the first, as many values are free, and the network that is emitted under powers of two gives the
same bits at every node. With `--decomposed` the graph is one of core ATen operators, which may leave less free.
"""

from __future__ import annotations

import argparse
import collections
import sys
import warnings

import torch
from torch_samples import Probe, Sample, Unfit, finished, layers, operations

import fxteleport as ft


@torch.no_grad()
def check(sample: Sample, mode: str, decomposed: bool) -> str:
    """'equal', or what differs.

    Raises:
        Unfit: the sample says nothing, or torch does not export it.
    """
    torch.manual_seed(0)
    model = Probe(sample).eval()
    z = finished(model)
    try:
        program = torch.export.export(model, (z,))
        if decomposed:
            program = program.run_decompositions()
        exported = program.module()
        same = torch.equal(exported(z)[0], model(z)[0])
    except Exception as error:
        raise Unfit("torch does not export it") from error
    eager, plan = ft.plan(model, z, mode=mode), ft.plan(exported, z, mode=mode)
    network = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=1))
    report = ft.verify(exported, network, z)
    if report.first_difference is not None:
        return f"different at {report.first_difference}"
    if plan.opaque and not eager.opaque:
        return f"opaque: {plan.opaque[0].why}"
    if plan.num_free < eager.num_free:
        return f"less free: {plan.num_free} of {eager.num_free}"
    return "equal" if same else "equal, though torch's program is not"


def main() -> int:
    """Run over torch's tables; 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="each so many'th operation and layer")
    parser.add_argument("--most", type=int, default=1, help="samples of each")
    parser.add_argument("--decomposed", action="store_true", help="into core ATen operators")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    seen: collections.Counter[str] = collections.Counter()
    for table in (operations, layers):
        for sample in table(chosen.every, chosen.most, torch.float32):
            for mode in ("full", "weights"):
                try:
                    result = check(sample, mode, chosen.decomposed)
                except Unfit as unfit:
                    result = f"unfit: {unfit}"
                except Exception as error:
                    result = f"error: {type(error).__name__}: {str(error)[:200]}"
                kind = result.split(" at ")[0].split(": ")[0].split(",")[0]
                seen[kind] += 1
                if kind not in ("equal", "unfit"):
                    print(f"{sample.name} ({mode}): {result}", flush=True)
    print(dict(seen))
    return 1 if set(seen) - {"equal", "unfit"} else 0


if __name__ == "__main__":
    sys.exit(main())
