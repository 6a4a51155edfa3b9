"""The largest elements along an axis, found block by block: those that `topk` finds."""

from __future__ import annotations

import pytest
import torch

from fxteleport.ranges.largest import largest_along, largest_elements


@pytest.mark.parametrize("shape", [(1, 320, 264), (2, 264, 300), (1, 300, 320), (3, 5, 7)])
@pytest.mark.parametrize("axis", [1, 2])
def test_they_are_those_of_topk(shape: tuple[int, ...], axis: int) -> None:
    for x in (torch.rand(shape), torch.randint(0, 3, shape).float(), torch.rand(shape).sort(axis).values):
        count = min(8, shape[axis])
        found = largest_along(x, count, axis)
        assert found.shape == x.topk(count, axis).indices.shape
        assert torch.equal(x.gather(axis, found).sort(axis).values, x.topk(count, axis).values.sort(axis).values)
        assert (found.sort(axis).values.diff(dim=axis) > 0).all()  # none twice


def test_each_row_and_column_has_its_largest_once_moved() -> None:
    size, scale = torch.rand(2, 320, 264), torch.randint(-3, 4, (2, 320, 1)).float().exp2()
    size[0, 3] = 0
    values, rows, columns = largest_elements(size, size * scale, 8)
    assert torch.equal(values, size[rows // 320, rows % 320, columns % 264].log().double())
    found, moved = set(zip(rows.tolist(), columns.tolist(), strict=True)), size * scale
    for group in range(2):
        for row in range(320):
            own = moved[group, row].topk(8)
            places = [c for v, c in zip(own.values.tolist(), own.indices.tolist(), strict=True) if v]
            assert all((group * 320 + row, group * 264 + c) in found for c in places)
        for column in range(264):
            own = moved[group, :, column].topk(8)
            assert all((group * 320 + r, group * 264 + column) in found for r in own.indices.tolist())
