"""Networks of given seeds under every oracle, as many as there is time for.

    python tests/oracles/campaign.py --seeds 0-19

Network `number` of a seed is drawn from these two alone. Each is a line of the record, so a run goes on where it was
cut off, and several may share the work by their seeds. A network that fails is shrunk as long as it fails in the same
check, and printed as a program that can be run again (`--script`).
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from oracle import Tally, Wrong
from random_networks import DTYPES, KINDS, OPERATIONS, Script, Step, seeded, several_of


def outcome(script: Script, skips: tuple[str, ...] = ()) -> tuple[dict[str, Any], Wrong | None]:
    """What a network's checks were worth, and the first that failed."""
    tally = Tally(skips=skips)
    try:
        tally.check(script)
    except Wrong as wrong:
        return tally.as_dict(), wrong
    except Exception as error:  # the oracle's own, too: one network must not end the run
        return tally.as_dict(), Wrong("error", "any", f"{type(error).__name__}: {error}")
    return tally.as_dict(), None


# -- shrinking ------------------------------------------------------------------------------------------------------


def smaller(script: Script) -> Iterator[Script]:
    """Scripts that are a little smaller: without a step, or with a first option."""
    for i in reversed(range(len(script.steps))):
        yield from without(script, i)
    if script.dtype != torch.float32:
        yield replace(script, dtype=torch.float32)
    for i, step in enumerate(script.steps):
        for j, pick in enumerate(step.picks):
            if pick:
                picks = (*step.picks[:j], 0, *step.picks[j + 1 :])
                yield replace(script, steps=(*script.steps[:i], replace(step, picks=picks), *script.steps[i + 1 :]))


def without(script: Script, at: int) -> Iterator[Script]:
    """The script without a step: what took its results takes its first operand, or goes with it."""
    network, inputs = script.make()
    values = [x.clone() for x in inputs]
    starts: list[tuple[int, int]] = []  # of each step's results the first and the number
    with torch.no_grad():
        for step, call in zip(script.steps, network.calls, strict=True):
            made = several_of(call(*(values[i] for i in step.operands)))
            starts.append((len(values), len(made)))
            values += made
    for rewired in (True, False):
        place = {i: i for i in range(len(script.inputs))}
        steps: list[Step] = []
        count = len(script.inputs)
        for i, step in enumerate(script.steps):
            start, number = starts[i]
            if i == at:
                if rewired:
                    place |= {start + k: place[step.operands[0]] for k in range(number)}
                continue
            if not all(o in place for o in step.operands):
                continue
            steps.append(replace(step, operands=tuple(place[o] for o in step.operands)))
            place |= {start + k: count + k for k in range(number)}
            count += number
        yield replace(script, steps=tuple(steps))


def shrunk(script: Script, wrong: Wrong, skips: tuple[str, ...] = (), seconds: float = 20.0) -> tuple[Script, Wrong]:
    """A small script that fails in the same check."""
    end = time.monotonic() + seconds
    found = True
    while found and time.monotonic() < end:
        found = False
        for other in smaller(script):
            try:
                _, again = outcome(other, skips)
            except Exception:  # it is no network
                continue
            if again is not None and kind_of(again) == kind_of(wrong):
                script, wrong, found = other, again, True
                break
            if time.monotonic() > end:
                break
    return script, wrong


def kind_of(wrong: Wrong) -> str:
    return " ".join(wrong.check.split()[:2]) + ("" if ":" not in wrong.how else wrong.how.split(":")[0])


def listing(script: Script) -> str:
    """A script as a program of one line a step, and as what `--script` takes."""
    network, inputs = script.make()
    lines = [f"    v{i} = input{tuple(x.shape)}" for i, x in enumerate(inputs)]
    values = [x.clone() for x in inputs]
    with torch.no_grad():
        for step, call in zip(script.steps, network.calls, strict=True):
            made = several_of(call(*(values[i] for i in step.operands)))
            names = ", ".join(f"v{len(values) + k}" for k in range(len(made)))
            taken = ", ".join(f"v{i}" for i in step.operands)
            lines.append(
                f"    {names} = {step.operation}({taken})  # picks {step.picks}, {[tuple(m.shape) for m in made]}"
            )
            values += made
    return "\n".join([*lines, f"    python tests/oracles/campaign.py --script {str(script)!r}"])


def read(text: str) -> Script:
    """A script from its text."""
    made = eval(text, {"Script": Script, "Step": Step, "torch": torch})
    assert isinstance(made, Script)
    return made


# -- running --------------------------------------------------------------------------------------------------------


def numbers(text: str) -> list[int]:
    """ "3", "0-19" or "1,4,7" as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def summary(lines: list[dict[str, Any]]) -> str:
    """What the networks of a record were worth."""
    total: collections.Counter[str] = collections.Counter()
    ends: collections.Counter[str] = collections.Counter()
    for line in lines:
        total.update({k: v for k, v in line["tally"].items() if isinstance(v, int)})
        for name, n in line["tally"]["runs"].items():
            ends[name.rpartition(" | ")[2]] += n
    checks, plans, nodes = max(1, sum(ends.values())), max(1, total["comparisons"]), max(1, total["nodes"])
    failed = sum(line["wrong"] is not None for line in lines)
    return (
        f"{total['networks']} networks, {plans} plans, {nodes} nodes, {checks} checks: {failed} networks fail;"
        f" {ends['refused'] / checks:.2%} of the checks refused, {ends['conditions'] / checks:.2%} differ under a"
        f" condition that the plan names; something is free in {total['moving'] / plans:.1%} of the plans,"
        f" {total['vacuous'] / plans:.2%} vacuous, {total['opaque'] / nodes:.2%} of the nodes opaque"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=numbers, default=[0], help="3, 0-19 or 1,4,7")
    parser.add_argument("--networks", type=int, default=1000, help="of each seed")
    parser.add_argument("--number", type=int, help="this network of each seed only")
    parser.add_argument("--only", nargs="*", help="operations beside stems and heads whose name starts so")
    parser.add_argument("--most", type=int, default=16, help="steps of a network")
    parser.add_argument("--record", type=Path, help="one JSON line a network; those that are there are not run again")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no new network after so long")
    parser.add_argument("--keep", action="store_true", help="do not shrink what fails")
    parser.add_argument(
        "--skip", nargs="*", default=[], help="checks that are not made: how their names begin (changed a tie)"
    )
    parser.add_argument("--script", type=read, help="check this network, and nothing else")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if given.script:
        print(listing(given.script))
        print(outcome(given.script, tuple(given.skip))[1] or "holds")
        return 0
    lines = (
        [json.loads(x) for x in given.record.read_text().splitlines()] if given.record and given.record.exists() else []
    )
    done = {(line["seed"], line["number"]) for line in lines}
    names = tuple(OPERATIONS) if given.only is None else tuple(n for n in OPERATIONS if n.startswith(tuple(given.only)))
    start, run = time.monotonic(), []
    for seed in given.seeds:
        for number in range(given.networks) if given.number is None else [given.number]:
            if (seed, number) in done or time.monotonic() - start > given.seconds:
                continue
            script = seeded(seed, number, names=names, most=given.most, dtypes=DTYPES)
            tally, wrong = outcome(script, tuple(given.skip))
            line: dict[str, Any] = {"seed": seed, "number": number, "tally": tally, "wrong": None}
            if wrong is not None:
                if not given.keep:
                    script, wrong = shrunk(script, wrong, tuple(given.skip))
                kinds = sorted({s.operation for s in script.steps} & set(KINDS))
                line |= {"wrong": str(wrong), "kinds": kinds, "script": str(script)}
                print(f"seed {seed}, network {number}: {wrong}\n{listing(script)}", flush=True)
            run.append(line)
            if given.record:
                with given.record.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    print(summary([*lines, *run]))
    return 1 if any(line["wrong"] for line in [*lines, *run]) else 0


if __name__ == "__main__":
    sys.exit(main())
