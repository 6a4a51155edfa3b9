"""The export table: a model planned as it is, as `torch.export` gives it, and decomposed into core ATen operators.

`python tests/oracles/exported.py [MODEL...]` prints for each model and mode how many values are free in the three, how
long a plan takes, and whether the teleported program equals the original to the last bit, in all that it puts out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import fxteleport as ft
from fxteleport.models import zoo

MODELS = (
    "resnet18 vgg11_bn densenet121 mobilenetv3_small_100 efficientnet_b0 regnety_002 convnext_atto vit_tiny_patch16_224"
    " mixer_s32_224 swin_tiny_patch4_window7_224 cait_xxs24_224 levit_128s dm_nfnet_f0 eva02_tiny_patch14_224"
    " torchvision/resnet18 torchvision/mobilenet_v2 torchvision/vit_b_16"
).split()
BATCH = 2


@dataclass(frozen=True)
class Row:
    """One plan: of which form of which model, what is free in it, and whether its program is equal.

    Attributes:
        form: "eager", "exported" or "decomposed".
        opaque: the operations that no rule knows.
        seconds: of the plan.
        bitwise: the teleported program against the one that was planned, at every node and at the outputs.
    """

    model: str
    form: str
    mode: str
    num_free: int
    moved: float
    opaque: int
    seconds: float
    bitwise: bool


def rows(name: str, mode: str) -> list[Row]:
    """The three forms of one model."""
    built = zoo.build(name)
    model = ft.randomize(built.model)
    x = torch.randn(BATCH, *built.shapes[0], generator=torch.Generator().manual_seed(0))
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    forms = {"eager": (model, (x,)), "exported": (program, ()), "decomposed": (program.run_decompositions(), ())}
    return [_row(name, form, mode, subject, given) for form, (subject, given) in forms.items()]


def _row(name: str, form: str, mode: str, subject: Any, given: tuple[Any, ...]) -> Row:
    start = time.perf_counter()
    plan = ft.plan(subject, *given, mode=mode)
    seconds = time.perf_counter() - start
    made = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
    report = ft.verify(subject, made, *given)
    bitwise = report.bitwise_equal and report.passed
    return Row(name, form, mode, plan.num_free, round(plan.moved, 4), len(plan.opaque), round(seconds, 2), bitwise)


def text(found: list[Row]) -> str:
    """The rows of one model and mode as a line of the table."""
    free = " | ".join(str(row.num_free) for row in found)
    seconds = " | ".join(f"{row.seconds:.1f}" for row in found)
    same = "yes" if all(row.bitwise for row in found) else "NO"
    return f"| {found[0].model} | {found[0].mode} | {free} | {same} | {seconds} |"


def main() -> None:
    """Print the table, and write the rows as lines of JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--mode", choices=("full", "weights"), action="append")
    parser.add_argument("--json", type=Path, help="append a line for each row to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| model | mode | eager | exported | decomposed | bitwise | s eager | s exported | s decomposed |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.models:
        for mode in options.mode or ("full", "weights"):
            try:
                found = rows(name, mode)
            except Exception as error:
                print(f"| {name} | {mode} | {type(error).__name__}: {str(error).splitlines()[0][:150]} |", flush=True)
                continue
            print(text(found), flush=True)
            if options.json is not None:
                with options.json.open("a") as file:
                    file.writelines(json.dumps(asdict(row)) + "\n" for row in found)


if __name__ == "__main__":
    sys.exit(main())
