"""Sums, maxima and log-sum-exps over segments of a vector: numbers of one segment need not be neighbours."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def segment_sum(values: Tensor, of: Tensor, count: int) -> Tensor:
    """[count] from [n], `of` saying which segment each belongs to."""
    return values.new_zeros(count).index_add(0, of, values)


def segment_max(values: Tensor, of: Tensor, count: int) -> Tensor:
    """The largest of each segment, -inf of an empty one; the gradient goes to the largest."""
    empty = values.new_full((count,), -math.inf)
    return empty.scatter_reduce(0, of, values, "amax", include_self=True)


def segment_mean(values: Tensor, of: Tensor, count: int) -> Tensor:
    """The mean of each segment, 0 of an empty one."""
    return segment_sum(values, of, count) / segment_sum(torch.ones_like(values), of, count).clamp_min(1)


def segment_logsumexp(values: Tensor, of: Tensor, count: int) -> Tensor:
    """log sum exp of each segment, -inf of an empty one; differentiable."""
    top = segment_max(values.detach(), of, count)
    top = torch.where(top.isfinite(), top, 0.0)
    return segment_sum((values - top[of]).exp(), of, count).log() + top
