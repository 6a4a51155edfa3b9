"""Selection: patterns and families."""

from __future__ import annotations

import fnmatch

import pytest
import timm

import fxteleport as ft
from fxteleport.models.zoo import check_name
from fxteleport.tools.models.selection import select


@pytest.mark.parametrize(
    "pattern", ["resnet1*", "*_atto", "vit_t?ny_patch16_224", "resnet[13][48]", "torchvision/resne*"]
)
def test_patterns(pattern: str) -> None:
    found = select([pattern])
    assert found and all(fnmatch.fnmatchcase(n, pattern) for n in found)
    for name in found:
        check_name(name)


def test_families() -> None:
    assert select([], ["nfnet"]) == timm.list_models(module="nfnet")
    found = select([], ["torchvision/resnet"])
    assert "torchvision/resnet18" in found and "torchvision/wide_resnet50_2" in found
    assert not any("quantized" in n or "rcnn" in n for n in found)
    assert select([], ["torchvision/detection.ssd"]) == ["torchvision/ssd300_vgg16"]


def test_the_order_of_the_call_and_each_once() -> None:
    assert select(["resnet34", "resnet18", "resnet[13][48]"]) == ["resnet34", "resnet18"]


def test_names_and_files_are_left_alone() -> None:
    assert select(["no_such_model", "a[1].py:make"]) == ["no_such_model", "a[1].py:make"]


@pytest.mark.parametrize(
    ("specs", "families", "message"),
    [
        (["qqq*"], [], r"no model matches 'qqq\*'"),
        ([], ["resnot"], "did you mean resnet"),
        ([], ["qqqqqq"], "a module of timm.models"),
        ([], [], "name a MODEL"),
    ],
)
def test_nothing_found(specs: list[str], families: list[str], message: str) -> None:
    with pytest.raises(ft.TeleportError, match=message):
        select(specs, families)
