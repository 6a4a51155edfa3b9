"""Models of transformers as people call them: with masks that are padded on either side, labels, and a cache.

For each class behind `AutoModelFor{CausalLM, Seq2SeqLM, MaskedLM, SequenceClassification, ImageClassification,
ObjectDetection, CTC}` (`all_transformers.py FILE.jsonl --heads`): the free values and the share that moves, called with
its main input alone and in each other way; whether the emitted network is exact at every node, and whether its outputs
are on other paddings.
"""

from __future__ import annotations

import copy
import inspect
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from small_transformers import setting
from torch import Tensor, nn

import fxteleport as ft

KINDS = (
    "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "SEQUENCE_CLASSIFICATION", "IMAGE_CLASSIFICATION",
    "OBJECT_DETECTION", "CTC",
)  # fmt: skip
BATCH, LENGTH, PROMPT, VOCABULARY, SOUND = 3, 7, 6, 50, 2000
CACHES = ("cache", "past_key_values", "cache_params", "state")
Given = dict[str, Any]


@dataclass
class Way:
    """A way of calling a model, and calls of the same form with another padding."""

    name: str
    given: Given
    others: dict[str, Given] = field(default_factory=dict)


def masks(length: int = LENGTH) -> dict[str, Tensor]:
    """Attention masks of a batch, by where they are padded."""
    made = {name: torch.ones(BATCH, length, dtype=torch.long) for name in ("right", "other right", "left", "none")}
    made["right"][1, 5 * length // 7 :] = made["right"][2, 2 * length // 7 :] = 0
    made["other right"][0, 3 * length // 7 :] = 0
    made["left"][0, : length // 7] = made["left"][2, : 4 * length // 7] = 0
    return made


def ways(network: nn.Module, config: Any, kind: str) -> Iterator[Way]:
    """The ways in which a model with a head is called, its main input alone first.

    Raises:
        Exception: the model does not run on the prompt that fills a cache.
    """
    takes = inspect.signature(network.forward).parameters
    if kind in ("IMAGE_CLASSIFICATION", "OBJECT_DETECTION"):
        yield from _of_images(takes, config, kind)
    elif kind == "CTC":
        yield from _of_sounds(takes, config)
    else:
        yield from _of_texts(network, takes, config, kind)


def _of_texts(network: nn.Module, takes: Any, config: Any, kind: str) -> Iterator[Way]:
    is_classifier, is_pair = kind == "SEQUENCE_CLASSIFICATION", kind == "SEQ_TO_SEQ_CAUSAL_LM"
    made = masks()
    alone = {"input_ids": _ids(made["none"], config, is_classifier)}
    target = {"decoder_input_ids": _ids(made["none"], config, False)} if is_pair else {}
    yield Way("alone", alone | target)
    if "attention_mask" not in takes:
        return
    labels = torch.tensor([0, 1, 1]) if is_classifier else _ids(made["none"], config, False)
    given = {} if "labels" not in takes else {"labels": labels}

    def padded(mask: Tensor) -> Given:
        return {"input_ids": _ids(mask, config, is_classifier), "attention_mask": mask} | (given or target)

    for side in ("right", "left"):
        others = {name: padded(mask) for name, mask in made.items() if name != side}
        yield Way(f"{side}, labels" if given else side, padded(made[side]), others)
    cache = next((name for name in CACHES if name in takes), None)
    if cache is not None and "use_cache" in takes and kind in ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM"):
        width = _width_of_mask(network, lambda width: _decoding(network, cache, made["left"], target, config, width))
        calls = {name: _decoding(network, cache, mask, target, config, width) for name, mask in made.items()}
        yield Way("cache", calls.pop("left"), calls)


def _width_of_mask(network: nn.Module, decoding: Callable[[int], Given]) -> int:
    """How much of the mask a model takes beside a cache: all of it, or (state space models) of its last token only."""
    try:
        with torch.no_grad():
            network(**decoding(LENGTH))
    except Exception:
        return LENGTH - PROMPT
    return LENGTH


def _decoding(network: nn.Module, cache: str, mask: Tensor, target: Given, config: Any, width: int) -> Given:
    """The call for the last token, with the cache that the call of those before it has left."""
    name = "decoder_input_ids" if target else "input_ids"
    ids = target[name] if target else _ids(mask, config, False)
    text = {"input_ids": _ids(mask, config, False)} if target else {}
    before, after = (mask, mask) if target else (mask[:, :PROMPT], mask[:, LENGTH - width :])
    with torch.no_grad():
        filled = network(**text, **{name: ids[:, :PROMPT], "attention_mask": before, "use_cache": True})[cache]
    return text | {name: ids[:, PROMPT:], "attention_mask": after, cache: filled, "use_cache": True}


def _ids(mask: Tensor, config: Any, ends: bool) -> Tensor:
    """Tokens: padding where the mask has zeros, and before it, where the texts have an end, the token of one."""
    ids = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) * 7 % VOCABULARY + 3
    if ends:
        last = (mask * torch.arange(LENGTH)).argmax(1)
        ids[torch.arange(BATCH), last] = _token(config, "eos_token_id", 2)
    return torch.where(mask == 1, ids, _token(config, "pad_token_id", 0))


def _token(config: Any, name: str, default: int) -> int:
    found = setting(config, name, default)
    return found if isinstance(found, int) else default


def _of_images(takes: Any, config: Any, kind: str) -> Iterator[Way]:
    draw = torch.Generator().manual_seed(0)
    side, channels = setting(config, "image_size", 64), setting(config, "num_channels", 3)
    side, channels = (side if isinstance(side, int) else 64), (channels if isinstance(channels, int) else 3)
    images = {"pixel_values": torch.randn(2, channels, side, side, generator=draw)}
    yield Way("alone", images)
    labels: Any = torch.tensor([0, 1])
    if kind == "OBJECT_DETECTION":
        boxes = [torch.tensor([[0.5, 0.5, 0.4, 0.2], [0.3, 0.6, 0.2, 0.4]]), torch.tensor([[0.4, 0.4, 0.5, 0.6]])]
        labels = [{"class_labels": torch.arange(len(b)), "boxes": b} for b in boxes]
    given = {"labels": labels} if "labels" in takes else {}
    if "pixel_mask" not in takes:
        if given:
            yield Way("labels", images | given)
        return
    made = {name: torch.ones(2, side, side, dtype=torch.long) for name in ("right", "other right", "none")}
    made["right"][1, side // 2 :] = made["right"][1, :, side // 2 :] = made["other right"][0, :, side // 4 * 3 :] = 0
    calls = {name: images | {"pixel_mask": mask} | given for name, mask in made.items()}
    yield Way("right, labels" if given else "right", calls.pop("right"), calls)


def _of_sounds(takes: Any, config: Any) -> Iterator[Way]:
    draw = torch.Generator().manual_seed(0)
    name = "input_values" if "input_values" in takes else "input_features"
    shape = (SOUND,) if name == "input_values" else (64, setting(config, "num_mel_bins", 16))
    sounds = {name: torch.randn(BATCH, *shape, generator=draw)}
    yield Way("alone", sounds)
    given = {"labels": torch.tensor([[3, 4], [5, 6], [7, 3]])} if "labels" in takes else {}
    if "attention_mask" not in takes:
        if given:
            yield Way("labels", sounds | given)
        return
    made = masks(shape[0])
    made["right"][2, :] = made["right"][1, :]  # enough of it for the labels
    made["left"][2, :] = made["left"][0, :]
    for side in ("right", "left"):
        calls = {other: sounds | {"attention_mask": mask} | given for other, mask in made.items()}
        yield Way(f"{side}, labels" if given else side, calls.pop(side), calls)


def tried_in_ways(network: nn.Module, config: Any, kind: str, done: Callable[[str, Given], None]) -> None:
    """What becomes of one network, called in each way: `done` is told as it is known."""
    found = ways(network, config, kind)
    while True:
        began = time.process_time()
        name = "the next way"
        try:
            way = next(found, None)
            if way is None:
                return
            name = way.name
            with torch.no_grad():
                copy.deepcopy(network)(**copy.deepcopy(way.given))  # it may note something of its labels
        except Exception as error:
            done(name, {"unfit": f"{type(error).__name__}: {str(error)[:200]}"})
            if name == "the next way":
                return
            continue
        try:
            row = _tried(network, way)
        except Exception as error:
            own = isinstance(error, ft.TeleportError)
            row = {"error": f"{type(error).__name__}: {str(error)[:600]}", "own": own}
        done(name, row | {"seconds": round(time.process_time() - began, 1)})


def _tried(network: nn.Module, way: Way) -> Given:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = ft.plan(network, **way.given)
        emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
        report = ft.verify(network, emitted, **way.given)
    return {
        "free": plan.num_free, "moved": round(plan.moved, 4), "nodes": report.nodes,
        "exact": report.bitwise_equal and (report.passed or report.vacuous), "vacuous": report.vacuous,
        **({} if report.passed and report.bitwise_equal else {"why": str(report)[:1500]}),
        "opaque": [f"{o.path}: {o.why}"[:300] for o in plan.opaque],
        "conditions": [str(c)[:300] for c in plan.conditions],
        "others": {name: _same(network, emitted, given) for name, given in way.others.items()},
    }  # fmt: skip


def _same(network: nn.Module, emitted: nn.Module, given: Given) -> str:
    with torch.no_grad():
        try:
            expected = network(**copy.deepcopy(given))
        except Exception:
            return "does not run"
        try:
            found = emitted(**copy.deepcopy(given))
        except ft.GuardError as error:
            return f"refused: {str(error)[:200]}"
    pairs = zip(_floats(expected), _floats(found), strict=True)
    return "equal" if all(torch.equal(a, b) for a, b in pairs) else "differs"


def _floats(out: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(out)
    return [torch.nan_to_num(x) for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
