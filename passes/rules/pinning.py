"""Operations that are known to pin their inputs: softmax, rounding divisions, distances, losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxteleport.passes.domain.cob_map import IDENTITY
from fxteleport.passes.rules import shape_functions
from fxteleport.passes.rules.axes import FROM_THE_RIGHT
from fxteleport.passes.rules.call import Call
from fxteleport.passes.rules.operand import Operand
from fxteleport.passes.rules.registry import named, rule


@rule(
    *named(
        "multinomial bincount histc searchsorted bucketize logsumexp isclose cosine_similarity pairwise_distance"
        " cdist pdist affine_grid cross_entropy nll_loss mse_loss l1_loss smooth_l1_loss"
        " huber_loss kl_div binary_cross_entropy binary_cross_entropy_with_logits ctc_loss gaussian_nll_loss"
        " poisson_nll_loss cosine_embedding_loss hinge_embedding_loss margin_ranking_loss multi_margin_loss"
        " multilabel_margin_loss multilabel_soft_margin_loss soft_margin_loss triplet_margin_loss"
        " triplet_margin_with_distance_loss"
    ),
    torch.sparse.softmax, torch.sparse.log_softmax,
    nn.CosineSimilarity, nn.PairwiseDistance, nn.modules.loss._Loss, nn.TripletMarginWithDistanceLoss,
    axes=FROM_THE_RIGHT,
)  # fmt: skip
def pinned(call: Call, *args: Any, **settings: Any) -> Any:
    for operand in pytree.tree_leaves((args, settings)):
        if isinstance(operand, Operand):
            call.pin(operand.map, f"'{name_of(call)}' depends on its scale")
    return IDENTITY


@rule(
    *named("softmax log_softmax softmin gumbel_softmax alpha_dropout feature_alpha_dropout"),
    nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin, nn.AlphaDropout, nn.FeatureAlphaDropout,
    shape=shape_functions.same,
    axes=FROM_THE_RIGHT,
)  # fmt: skip
def pinned_in_place(call: Call, *args: Any, **settings: Any) -> Any:
    return pinned(call, *args, **settings)


@rule(*named("floordiv floor_divide mod fmod remainder"), shape=shape_functions.broadcast, axes=FROM_THE_RIGHT)
def rounded(call: Call, *args: Any, **settings: Any) -> Any:
    return pinned(call, *args, **settings)


@rule(
    *named("isnan isinf isfinite logical_not logical_and logical_or logical_xor"),
    shape=shape_functions.broadcast,
    axes=FROM_THE_RIGHT,
)
@rule(*named("all any"), shape=shape_functions.reduced, axes=FROM_THE_RIGHT)
@rule(*named("nonzero count_nonzero"), axes=FROM_THE_RIGHT)
def invariant(call: Call, *inputs: Any, **settings: Any) -> Any:
    call.shape_only(*inputs, *settings.values())  # scaling changes neither which values are 0 nor which are finite
    return IDENTITY


def name_of(call: Call) -> str:
    """The operation's name in words."""
    if call.module is not None:
        return type(call.module).__name__
    target = call.node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
