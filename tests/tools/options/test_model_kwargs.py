"""`--model-kwargs` as timm spells it."""

from __future__ import annotations

import pytest

from fxteleport.passes.errors import InputError
from fxteleport.tools.options.model_kwargs import NAME, parsed, spread


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("a", "a"),
        (f"{NAME} x=1 y=2 z=3 --seed 1", f"{NAME} x=1 {NAME} y=2 {NAME} z=3 --seed 1"),
        (f"{NAME} x=1 model y=2", f"{NAME} x=1 model y=2"),  # y=2 stands behind something else
        (f"{NAME} x=1 {NAME} y=2", f"{NAME} x=1 {NAME} y=2"),
        (f"{NAME} --seed 1", f"{NAME} --seed 1"),  # the parser says what is missing
        (f"{NAME} wrong x=1", f"{NAME} wrong x=1"),
        (f"--seed 1 {NAME}", f"--seed 1 {NAME}"),
    ],
)
def test_several_behind_one_option(given: str, meant: str) -> None:
    assert list(spread(given.split())) == meant.split()


def test_values_are_literals_or_texts() -> None:
    found = parsed(["n=10", "r=0.5", "b=True", "s=(1, 2)", "none=None", "act=gelu", "path=a=b", "empty="])
    assert found == {"n": 10, "r": 0.5, "b": True, "s": (1, 2), "none": None, "act": "gelu", "path": "a=b", "empty": ""}


@pytest.mark.parametrize(
    ("pairs", "why"), [(["10"], "NAME=VALUE"), (["1a=2"], "NAME=VALUE"), (["a=1", "a=2"], "twice")]
)
def test_wrong_pairs(pairs: list[str], why: str) -> None:
    with pytest.raises(InputError, match=why):
        parsed(pairs)
