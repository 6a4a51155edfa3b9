"""Packed sequences: sequences of several lengths, step by step, without padding.

The lengths, which are data, decide which positions remain, so all positions share one CoB; the channels keep their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

from fxteleport.passes.domain.cob_map import IDENTITY, CobMap
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import rule

_LENGTHS = "the run decides which of these positions are kept"


@rule(PackedSequence)
def packed(call: Call, data: Operand, *sizes: Any, **named: Any) -> list[CobMap]:
    return [data.map, IDENTITY, IDENTITY, IDENTITY]


@rule(torch._VF._pack_padded_sequence)  # type: ignore[attr-defined]
def pack(call: Call, input: Operand, lengths: Operand, batch_first: bool) -> list[CobMap]:
    """[steps, batch, ...] -> [positions, ...]."""
    cob = call.constant(input.map, [0, 1], _LENGTHS)
    return [cob.each(lambda s: s.flatten(0, 1)), IDENTITY]


@rule(torch._VF._pad_packed_sequence)  # type: ignore[attr-defined]
def pad(
    call: Call, data: Operand, batch_sizes: Operand, batch_first: bool, padding_value: float, total_length: int
) -> list[CobMap]:
    """[positions, ...] -> [steps, batch, ...], with zeros where a sequence has ended."""
    if padding_value:
        call.pin(data.map, "it is padded with a constant other than zero")
    cob = call.constant(data.map, [0], _LENGTHS)
    return [cob.each(lambda s: s[None]), IDENTITY]
