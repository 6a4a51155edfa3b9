"""Measure `fxteleport teleport --stream` against `cp` on a checkpoint that does not fit the memory.

    python docs/measure/stream.py FOLDER [LAYERS]

Makes FOLDER/net.py:decoder (a language model, 0.4 GB a layer) and its checkpoint in bfloat16, once; then copies it by
`cp` and by `--stream` in turn, each from a cold cache and with a `sync` in its time. Needs three times the checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from multiprocessing import Process
from pathlib import Path

NET = """
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention, silu

WIDTH, HIDDEN, HEADS, WORDS = 4096, 11008, 32, 32000

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
    def forward(self, x):
        y = self.norm1(x)
        q, k, v = (f(y).unflatten(2, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = x + self.o(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(silu(self.gate(y)) * self.up(y))

class Decoder(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embed.weight
    def forward(self, words):
        return self.head(self.norm(self.blocks(self.embed(words))))

def decoder():
    return Decoder(LAYERS)

def example_inputs():
    return torch.zeros(1, 8, dtype=torch.int64)
"""


def make(folder: Path, layers: int) -> None:
    """The network's file, and its checkpoint: a shard for every two layers."""
    import torch
    from safetensors.torch import save_file

    (folder / "net.py").write_text(NET.replace("LAYERS)", f"{layers})", 1))
    source = folder / "source"
    if (source / "model.safetensors.index.json").exists():
        return
    source.mkdir(parents=True, exist_ok=True)
    scope: dict[str, object] = {}
    exec((folder / "net.py").read_text(), scope)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in scope["Decoder"](layers).named_parameters()}  # type: ignore[operator]
    noise = torch.randn(140_000_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    shards: dict[str, list[str]] = {}
    for name in shapes:
        part = int(name.split(".")[1]) // 2 + 1 if name.startswith("blocks") else 0
        shards.setdefault(f"model-{part:05}.safetensors", []).append(name)
    for file, names in shards.items():
        save_file({n: noise[: shapes[n].numel()].view(shapes[n]).clone() for n in names}, source / file)
    places = {n: file for file, names in shards.items() for n in names}
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}, indent=2))


def cold(folder: Path) -> None:
    """Forget a folder's files, which must have been written out for that."""
    os.sync()
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(command: list[str]) -> tuple[float, int]:
    """Seconds until all is on the disk, and the peak memory of the process in bytes."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    os.sync()
    if status:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main(folder: Path, layers: int, repeats: int = 3) -> None:
    """Make, copy in turn, and say what was measured."""
    folder.mkdir(exist_ok=True)
    maker = Process(target=make, args=(folder, layers))  # its memory would count as that of the processes started here
    maker.start()
    maker.join()
    source, output = folder / "source", folder / "output"
    size = sum(f.stat().st_size for f in source.iterdir())
    tensor = 32000 * 4096 * 2
    stream = [sys.executable, "-m", "fxteleport", "teleport", f"{folder}/net.py:decoder", "--checkpoint", str(source)]
    commands = {
        "cp": ["cp", "-r", str(source), str(output)],
        "stream": [*stream, "--stream", "--output", str(output)],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    print(f"{size / 1e9:.2f} GB, largest tensor {tensor / 1e9:.2f} GB")
    for _ in range(repeats):
        for name, command in commands.items():
            shutil.rmtree(output, ignore_errors=True)
            cold(source)
            took, peak = timed(command)
            seconds[name].append(took)
            print(f"{name}: {took:.1f} s, {size / took / 1e6:.0f} MB/s, peak memory {peak / 1e9:.2f} GB", flush=True)
    shutil.rmtree(output, ignore_errors=True)
    ratio = statistics.median(seconds["stream"]) / statistics.median(seconds["cp"])
    print(f"stream / cp: {ratio:.2f} (medians of {repeats})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 26)
