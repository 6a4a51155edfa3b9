"""Every architecture of Hugging Face's transformers, shrunk: code that nobody wrote with this tool in mind.

`python tests/oracles/all_transformers.py FILE.jsonl` builds the base model of each configuration class with small
sizes, finds inputs that it runs on, plans it in both modes and compares the emitted networks at every node under
powers of two. A
line a network is appended to the file, so that a run goes on where it was cut off; at the end it is summed up.
Architectures that no shrinking fits (their sizes hang together) say so, and count as not built. With `--masks` they
are language models with a head, called with a mask and labels (`masked_transformers.py`).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import inspect
import json
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fxteleport as ft

sys.path.insert(0, str(Path(__file__).parent))

import masked_transformers

LARGEST = 40_000_000  # parameters of a network that is tried
# Settings by name, with a small value for each.
SMALL: dict[str, int] = {
    "vocab_size": 60, "num_labels": 3, "num_mel_bins": 16, "image_size": 32, "patch_size": 8,
    "num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "num_key_value_heads": 2, "head_dim": 8, "num_attention_heads": 4, "num_heads": 4, "n_head": 4,
    "attention_heads": 4, "encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2, "n_layer": 2,
    "num_layers": 2, "n_layers": 2, "depth": 2, "intermediate_size": 48, "ffn_dim": 48, "d_ff": 48, "mlp_dim": 48,
    "n_inner": 48, "hidden_size": 32, "d_model": 32, "n_embd": 32, "embed_dim": 32, "embedding_size": 32,
    "projection_dim": 32, "dim": 32, "num_queries": 5, "max_position_embeddings": 64,
}  # fmt: skip


# Architectures differ in which sizes must fit each other: what is shrunk, from the most to the least.
_LAYERS = ("vocab_size", "encoder_layers", "decoder_layers", "num_hidden_layers", "n_layer", "num_layers", "n_layers")
_HEADS = ("num_attention_heads", "num_heads", "n_head", "attention_heads", "num_key_value_heads", "head_dim")
SHRINKINGS: tuple[frozenset[str], ...] = (
    frozenset(SMALL),
    frozenset(SMALL) - {"head_dim", "num_key_value_heads"},
    frozenset(SMALL) - frozenset(_HEADS),
    frozenset(_LAYERS),
)


def shrunk(kind: type, names: frozenset[str]) -> Any:
    """A configuration with small values of some settings, and its parts' alike."""
    takes = inspect.signature(kind.__init__).parameters
    given: dict[str, Any] = {}
    for name, value in vars(kind()).items():
        if name not in takes:
            continue
        if isinstance(getattr(value, "model_type", None), str):
            given[name] = shrunk(type(value), names)
        elif type(value) is int and name in names:
            given[name] = min(value, SMALL[name])
        elif name.endswith("_token_id") and isinstance(value, int) and "vocab_size" in names:
            given[name] = min(value, 1)
    return kind(**given, **({"use_cache": False} if "use_cache" in takes else {}))


def inputs_for(model: nn.Module, config: Any) -> Iterator[dict[str, Any]]:
    """Inputs that the model may run on, the likeliest first."""
    takes = inspect.signature(model.forward).parameters
    side = _setting(config, "image_size", 32)
    side = side if isinstance(side, int) else 32
    channels = _setting(config, "num_channels", 3)
    mels = _setting(config, "num_mel_bins", 16)
    tokens = torch.arange(14).view(2, 7) % 50 + 3
    draw = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    texts: dict[str, Any] = {"input_ids": tokens, "decoder_input_ids": tokens}
    images = {"pixel_values": noise(2, channels if isinstance(channels, int) else 3, side, side)}
    sounds = [
        {"input_values": noise(2, 2000)}, {"input_values": noise(2, 1, 2000)}, {"input_features": noise(2, mels, 64)},
        {"input_features": noise(2, 64, mels)}, {"input_features": noise(2, mels, 3000)},
    ]  # fmt: skip
    clips = {"pixel_values_videos": noise(1, 4, 3, side, side), "pixel_values": noise(1, 4, 3, side, side)}
    pairs = {"pixel_values": noise(1, 2, 3, side, side)}
    for given in (texts | images, texts, images, *sounds, *(texts | s for s in sounds), clips, pairs):
        fitting = {k: v for k, v in given.items() if k in takes}
        if fitting:
            yield fitting
    main = getattr(model, "main_input_name", "")
    if isinstance(main, str) and main in takes:
        for shape in ((2, 7, 32), (2, 64, 16), (2, 3, side, side), (2, 500)):
            yield {main: noise(*shape)}


def _setting(config: Any, name: str, default: Any) -> Any:
    """A setting of a configuration, or of the first of its parts that has it."""
    for held in (config, *(v for v in vars(config).values() if hasattr(v, "model_type"))):
        if (value := getattr(held, name, None)) is not None:
            return value
    return default


class Unfit(Exception):
    """A network that cannot be tried: why."""


def built(config_name: str, model_name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A small network, with inputs that it runs on: by the first shrinking that its sizes allow."""
    why: list[str] = []
    for names in SHRINKINGS:
        try:
            return attempt(config_name, model_name, names)
        except Unfit as error:
            why.append(str(error))
    raise Unfit(next((w for w in why if w.startswith("does not run")), why[0]))


def attempt(config_name: str, model_name: str, names: frozenset[str]) -> tuple[nn.Module, dict[str, Any]]:
    """The network by one shrinking, with inputs that it runs on."""
    import transformers

    try:
        config, kind = shrunk(getattr(transformers, config_name), names), getattr(transformers, model_name)
        with torch.device("meta"):
            size = sum(p.numel() for p in kind(config).parameters())
        if size > LARGEST:
            raise Unfit(f"{size:,} parameters")
        model = ft.randomize(kind(config)).eval()
    except (Unfit, TimeoutError):
        raise
    except Exception as error:
        raise Unfit(f"not built: {type(error).__name__}: {str(error)[:100]}") from error
    first = "no inputs are known for it"
    for given in inputs_for(model, config):
        try:
            with torch.no_grad():
                model(**given)
        except TimeoutError:
            raise
        except Exception as error:
            first = f"{type(error).__name__}: {str(error)[:100]}" if first.startswith("no inputs") else first
            continue
        return model, given
    raise Unfit(f"does not run: {first}")


@contextlib.contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def tried(name: str, config: str, model: str) -> dict[str, Any]:
    """What became of one architecture."""
    row: dict[str, Any] = {"model": name}
    torch.manual_seed(0)
    try:
        with at_most(20):
            network, given = built(config, model)
    except (Unfit, TimeoutError) as error:
        return row | {"state": "unfit", "why": str(error)}
    row["inputs"] = list(given)
    try:
        with at_most(900):
            for mode in ("full", "weights"):
                plan = ft.plan(network, mode=mode, **given)
                emitted = plan.rewrite(plan.sample(0.9, "inter", exact=True, seed=0))
                report = ft.verify(network, emitted, **given)
                if not (report.passed and report.bitwise_equal):
                    state = "vacuous" if report.bitwise_equal and report.vacuous else "wrong"
                    return row | {"state": state, "mode": mode, "why": str(report)[:2000]}
                why = list(dict.fromkeys(f"{o.path}: {o.why}" for o in plan.opaque))
                row[mode] = {"free": plan.num_free, "moved": plan.moved, "opaque": why}
                row["nodes"] = len(plan.captured.graph.nodes)
    except TimeoutError as error:
        return row | {"state": "late", "why": str(error)}
    except Exception as error:
        return row | {"state": "error", "why": f"{type(error).__name__}: {str(error)[:600]}"}
    return row | {"state": "equal"}


def masked(name: str, config: str) -> dict[str, Any]:
    """What became of one architecture with a head, called with a mask and labels."""
    row: dict[str, Any] = {"model": name}
    head = masked_transformers.head_of(name)
    if head is None:
        return row | {"state": "unfit", "why": "no language model"}
    torch.manual_seed(0)
    try:
        with at_most(300):
            network, _ = built(config, head)
            row |= masked_transformers.tried_with_masks(network, inspect.signature(network.forward).parameters)
    except (Unfit, TimeoutError) as error:
        return row | {"state": "unfit", "why": str(error)}
    except Exception as error:
        return row | {"state": "error", "why": f"{type(error).__name__}: {str(error)[:600]}"}
    return row | {"state": "equal" if all(w["exact"] for w in row.values() if isinstance(w, dict)) else "wrong"}


def main() -> int:
    """Try what the file does not hold yet; 1 where a network differs or fails."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", help="names of models, comma separated")
    parser.add_argument("--masks", action="store_true", help="language models, called with a mask and labels")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [json.loads(line) for line in arguments.file.read_text().splitlines()] if arguments.file.exists() else []
    done = {row["model"] for row in rows}
    wanted = set(arguments.only.split(",")) if arguments.only else None
    for name in sorted(MODEL_MAPPING_NAMES):
        if name in done or name not in CONFIG_MAPPING_NAMES or (wanted is not None and name not in wanted):
            continue
        models, config = MODEL_MAPPING_NAMES[name], CONFIG_MAPPING_NAMES[name]
        base = models if isinstance(models, str) else models[0]
        rows.append(row := masked(name, config) if arguments.masks else tried(name, config, base))
        with arguments.file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        print(row["model"], row["state"], row.get("why", "")[:200], flush=True)
    if arguments.masks:
        print(masked_transformers.table(rows))
    print(dict(collections.Counter(row["state"] for row in rows)))
    return int(any(row["state"] in ("wrong", "error") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
