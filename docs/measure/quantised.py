"""Equalising by several tools, side by side: top-1 of the Fashion-MNIST networks with rounded weights and activations.

    python docs/measure/fashion.py DATA FOLDER && python docs/measure/quantised.py DATA FOLDER [--networks NAME...]

Every tool gives a float network; all are rounded and run by the same code (`ft.fake_quantize`; activations 8 bits,
calibrated on 256 training pictures), on the first 2,000 test pictures. A tool that fails is named with its error.
`aimet`: aimet-torch's `equalize_model`. `brevitas`: `preprocess_for_quantize`, 20 rounds of equalising. Of both with
ReLU6 replaced by ReLU and with ReLU6 kept: the better one. Their results do not depend on the format.

`--draws N` adds the worst and the best top-1 of N changes of basis beside ours, each value moved by 3 % (one standard
deviation): how much is due to one draw of the rounding errors.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fashion import accuracy, network, pictures
from fashion_networks import NETWORKS
from torch import Tensor, fx, nn

import fxteleport as ft


def aimet(model: nn.Module, x: Tensor) -> list[nn.Module]:
    """Cross-layer equalisation and high-bias folding (Qualcomm)."""
    from aimet_torch.cross_layer_equalization import equalize_model

    replaced = copy.deepcopy(model)
    for path, module in list(replaced.named_modules()):
        if isinstance(module, nn.ReLU6):
            parent, _, name = path.rpartition(".")
            replaced.get_submodule(parent)._modules[name] = nn.ReLU()
    for candidate in (model, replaced):
        equalize_model(candidate, dummy_input=x[:1])
    return [model, replaced]


def brevitas(model: nn.Module, x: Tensor) -> list[nn.Module]:
    """Equalisation of regions (AMD)."""
    from brevitas.graph.quantize import preprocess_for_quantize

    return [
        preprocess_for_quantize(copy.deepcopy(model), relu6_to_relu=replaced, equalize_iters=20)
        for replaced in (True, False)
    ]


RIVALS: dict[str, Callable[[nn.Module, Tensor], list[nn.Module]]] = {"aimet": aimet, "brevitas": brevitas}


def of_rivals(model: nn.Module, x: Tensor) -> dict[str, list[fx.GraphModule]]:
    """What other tools make of a network; none of one that fails."""
    found: dict[str, list[fx.GraphModule]] = {}
    for name, tool in RIVALS.items():
        try:
            found[name] = [ft.fold_norms(m.eval(), x[:2]) for m in tool(copy.deepcopy(model), x)]
        except Exception as error:
            found[name] = []
            print(f"  {name} failed: {type(error).__name__}: {str(error).splitlines()[0][:120]}", file=sys.stderr)
    return found


def beside(plan: ft.Plan, cob: ft.ChangeOfBasis, count: int) -> list[fx.GraphModule]:
    """The network in changes of basis whose values are those of one, moved by 3 %."""
    random = torch.Generator().manual_seed(0)
    moves = (1 + 0.03 * torch.randn(plan.num_free, generator=random, dtype=torch.float64) for _ in range(count))
    return [plan.rewrite(plan.cob(cob.values * move)) for move in moves]


def rows(
    model: nn.Module, x: Tensor, images: Tensor, classes: Tensor, draws: int = 0
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """(format, scale, top-1 of each tool)."""
    folded = ft.fold_norms(model, x[:2])
    plan, data, rivals = ft.plan(folded, x[:2]), list(x.split(64)), of_rivals(model, x)
    for per_channel in (False, True):
        for bits in (8, 6, 4):

            def each(
                candidates: list[fx.GraphModule], bits: int = bits, per_channel: bool = per_channel
            ) -> list[float]:
                rounded = (ft.fake_quantize(c, bits, per_channel, 8, data) for c in candidates)
                return [accuracy(r, images, classes) for r in rounded]

            cob = ft.equalize(plan, "noise", data, bits=bits, per_channel=per_channel, activation_bits=8)
            found = {"none": each([folded])[0], "ours": each([plan.rewrite(cob)])[0]}
            found |= {name: max(each(made), default=float("nan")) for name, made in rivals.items()}
            if draws:
                drawn = each(beside(plan, cob, draws))
                found |= {"worst": min(drawn), "best": max(drawn)}
            yield f"W{bits}A8", "channel" if per_channel else "tensor", found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--count", type=int, default=2000, help="of test pictures")
    parser.add_argument("--draws", type=int, default=0, help="changes of basis beside ours")
    asked = parser.parse_args()
    x = pictures(asked.data, "train")[0][:256]
    images, classes = (t[: asked.count] for t in pictures(asked.data, "t10k"))
    columns = ("none", "ours", *RIVALS, *(("worst", "best") if asked.draws else ()))
    print(f"{'network':10} {'format':6} {'scale':8}" + "".join(f"{n:>10}" for n in columns))
    for name in asked.networks:
        model = network(asked.folder, name)
        print(f"{name:10} float           {accuracy(model, images, classes):10.1f}", flush=True)
        for form, scale, found in rows(model, x, images, classes, asked.draws):
            print(f"{name:10} {form:6} {scale:8}" + "".join(f"{v:10.1f}" for v in found.values()), flush=True)


if __name__ == "__main__":
    main()
