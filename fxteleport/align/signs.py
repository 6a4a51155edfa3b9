"""The signs of an alignment: free values are +1 or -1, and every weight votes for a product of a few of them.

Votes for one or two values are edges of a graph, with an extra vertex for the pinned +1. A spanning tree of the
strongest edges determines all values in one pass; then values with most votes against them are flipped. Only a few
edges a neuron enter the tree, so time and memory stay near those of reading the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxteleport.align.magnitudes import Votes, spread_back

Array = np.ndarray[Any, Any]
_STRONGEST = 8  # votes of a row or of a column that may become edges
_TURNS = 50


def signs(matrix: Any, votes: Sequence[Votes], movable: Tensor, start: Tensor | None = None) -> Tensor:
    """The signs with the most votes, float64 [num_free]; + where there is no vote and where `movable` is False.

    With `start`, only the improvement by flips is done.

    Args:
        matrix: every symbol's exponents of the free values, sparse.
        votes: the parameters' votes.
        movable: bool [num_free].
        start: signs, + where `movable` is False.
    """
    parity = matrix.copy()
    parity.data = np.abs(parity.data) % 2
    parity.eliminate_zeros()
    held = [v for v in votes if v.factors]
    bits = _tree(parity, held, movable.numpy()) if start is None else (start < 0).double().numpy()
    return torch.from_numpy(1.0 - 2.0 * _improved(parity, held, movable.numpy(), bits))


def _tree(parity: Any, votes: Sequence[Votes], movable: Array) -> Array:
    """A sign bit for every free value, along a spanning tree of the strongest votes."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

    free = parity.shape[1]
    ends, strengths = [np.empty((0, 2), np.int64)], [np.empty(0)]
    for pair, strength in (edge for v in votes for edge in _edges(parity, v, movable)):
        ends.append(pair)
        strengths.append(strength)
    pair, strength = np.concatenate(ends), np.concatenate(strengths)
    pair.sort(axis=1)
    key = pair[:, 0] * (free + 1) + pair[:, 1]
    unique, where = np.unique(key, return_inverse=True)
    total = np.bincount(where, strength, len(unique))
    kept = total != 0
    total = total[kept]
    a, b = (ends.astype(np.int32) for ends in divmod(unique[kept], free + 1))  # as scipy's graphs had to have them
    if not len(total):
        return np.zeros(free)
    shape = (free + 1, free + 1)
    cost = 1 + np.abs(total).max() - np.abs(total)  # the strongest first, and never 0
    tree = minimum_spanning_tree(coo_array((cost, (a, b)), shape=shape).tocsr())
    against = coo_array((np.where(total < 0, 1.0, -1.0), (a, b)), shape=shape).tocsr()
    _, label = connected_components(tree, directed=False)
    _, roots = np.unique(label, return_index=True)
    roots[label[free]] = free  # the pinned +1 is the root of its component
    above, turned = np.arange(free + 1), np.zeros(free + 1, bool)
    for root in roots[np.bincount(label) > 1]:
        order, parent = breadth_first_order(tree, root, directed=False)
        nodes, up = order[1:], parent[order[1:]]
        above[nodes] = up
        turned[nodes] = np.asarray(against[np.minimum(up, nodes), np.maximum(up, nodes)]).reshape(-1) > 0
    while (above != above[above]).any():  # pointer jumping: each round halves the steps to the root
        turned, above = turned ^ turned[above], above[above]
    return turned[:free].astype(float)


def _edges(parity: Any, votes: Votes, movable: Array) -> Iterator[tuple[Array, Array]]:
    """The strongest votes of a tensor for one or two values: (ends, strengths); the pinned +1 is number `num_free`."""
    picked = _strongest(votes.strength)
    strength = votes.strength.reshape(-1)[picked].numpy()
    shape = votes.strength.shape
    symbols = [s.expand(shape).reshape(-1)[picked].numpy() for s in votes.factors]
    rows = sum((parity[s] for s in symbols[1:]), parity[symbols[0]]).tocsr()
    rows.data = rows.data % 2
    rows = rows.multiply(movable.astype(float)[None, :]).tocsr()
    rows.eliminate_zeros()
    terms, at = np.diff(rows.indptr), rows.indptr[:-1]
    one, two, pinned = terms == 1, terms == 2, parity.shape[1]
    first = rows.indices[at[one]]
    yield np.stack([first, np.full_like(first, pinned)], 1).astype(np.int64), strength[one]
    yield np.stack([rows.indices[at[two]], rows.indices[at[two] + 1]], 1).astype(np.int64), strength[two]


def _strongest(strength: Tensor) -> Tensor:
    """The positions of the strongest votes along every axis."""
    number = torch.arange(strength.numel()).view(strength.shape)
    if strength.numel() <= 4096:
        return number.reshape(-1)
    strongest: list[Tensor] = []
    for axis, size in enumerate(strength.shape):
        if size > 1:
            flat = strength.abs().movedim(axis, 0).reshape(size, -1)
            top = flat.topk(min(_STRONGEST, flat.shape[1]), dim=1).indices
            strongest.append(number.movedim(axis, 0).reshape(size, -1).gather(1, top).reshape(-1))
    picked: Tensor = torch.cat(strongest).unique()
    return picked


def _improved(parity: Any, votes: Sequence[Votes], movable: Array, bits: Array) -> Array:
    """Flip values while that gains agreement: those with more votes against them, or the worst of these."""
    support, best = _support(parity, votes, bits)
    for _ in range(_TURNS):
        wrong = (support < -1e-9 * max(np.abs(support).max(initial=0.0), 1e-300)) & movable
        worst = np.argsort(np.where(wrong, support, np.inf))
        for count in (int(wrong.sum()) >> k for k in range(int(wrong.sum()).bit_length())):
            trial = bits.copy()
            trial[worst[:count]] = 1 - trial[worst[:count]]
            trial_support, agreement = _support(parity, votes, trial)
            if agreement > best:
                bits, support, best = trial, trial_support, agreement
                break
        else:
            break
    return bits


def _support(parity: Any, votes: Sequence[Votes], bits: Array) -> tuple[Array, float]:
    """For each free value the votes for its sign less those against it, and the total agreement."""
    sign = torch.from_numpy(1.0 - 2.0 * ((parity @ bits) % 2))
    into = torch.zeros(parity.shape[0], dtype=torch.float64)
    total = 0.0
    for v in votes:
        agreement = v.strength
        for symbols in v.factors:
            agreement = agreement * sign[symbols]
        total += float(agreement.sum())
        spread_back([(s, 1) for s in v.factors], agreement, into)
    return parity.T @ into.numpy(), total
