"""The largest elements of each row and of each column of a weight, which equalising keeps."""

from __future__ import annotations

import torch
from torch import Tensor


def largest_elements(size: Tensor, moved: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The magnitudes of [groups, rows, columns] that are among the largest of their row or column once moved.

    Returns:
        Their logarithms, their rows and their columns, counted over all groups.
    """
    groups, rows, columns = size.shape
    if size.numel() <= most * (rows + columns) * groups:
        at = torch.arange(size.numel(), device=size.device)
    else:
        first = (rows * columns * torch.arange(groups, device=size.device)).view(-1, 1, 1)
        row, column = (torch.arange(n, device=size.device) for n in (rows, columns))
        of_rows = first + columns * row[:, None] + largest_along(moved, min(most, columns), 2)
        of_columns = first + column + columns * largest_along(moved, min(most, rows), 1)
        at = torch.cat([of_rows.reshape(-1), of_columns.reshape(-1)]).unique()
    values = size.reshape(-1)[at].log()
    there = values.isfinite()  # the logarithm of a zero is not
    at, values = at[there].cpu(), values[there].double().cpu()
    group, rest = at // (rows * columns), at % (rows * columns)
    return values, group * rows + rest // columns, group * columns + rest % columns


_BLOCK = 8


def largest_along(x: Tensor, count: int, axis: int) -> Tensor:
    """The positions of the `count` largest elements along an axis: [..., count, ...]; of equal ones any.

    They lie in the `count` blocks with the largest maxima, so most of the tensor is read once and in order; `topk`
    along columns would jump in memory.
    """
    size = x.shape[axis]
    if size % _BLOCK or size <= 4 * count * _BLOCK:
        return x.topk(count, axis).indices
    tops = x.unflatten(axis, (size // _BLOCK, _BLOCK)).amax(axis + 1).topk(count, axis).indices
    inside = torch.arange(_BLOCK, device=x.device).view(-1, *[1] * (x.ndim - axis - 1))
    near = (tops.unsqueeze(axis + 1) * _BLOCK + inside).flatten(axis, axis + 1)
    positions: Tensor = near.gather(axis, x.gather(axis, near).topk(count, axis).indices)
    return positions
