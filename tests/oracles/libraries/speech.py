"""speechbrain and torchaudio-like recognisers: with lengths, as its recipes call them."""

from __future__ import annotations

import torch
from survey import call

from libraries.called import Called, noise, of, tokens

LENGTHS = torch.tensor([1.0, 0.6])
ONE = torch.tensor([1.0])


@of("speechbrain", "ECAPA_TDNN, with lengths")
def ecapa() -> Called:
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    network = ECAPA_TDNN(
        16,
        lin_neurons=12,
        channels=[16, 16, 16, 16, 48],
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        attention_channels=8,
        res2net_scale=4,
        se_channels=8,
    )
    return Called(network, call(noise(2, 40, 16), LENGTHS), (call(noise(1, 50, 16), ONE),))


@of("speechbrain", "Xvector, with lengths")
def xvector() -> Called:
    from speechbrain.lobes.models.Xvector import Xvector

    network = Xvector(
        in_channels=16,
        tdnn_blocks=3,
        tdnn_channels=[16, 16, 24],
        tdnn_kernel_sizes=[5, 3, 1],
        tdnn_dilations=[1, 2, 1],
        lin_neurons=12,
    )
    return Called(network, call(noise(2, 40, 16), LENGTHS), (call(noise(1, 50, 16), ONE),))


@of("speechbrain", "CRDNN")
def crdnn() -> Called:
    from speechbrain.lobes.models.CRDNN import CRDNN

    network = CRDNN(
        input_shape=[None, None, 16], cnn_channels=[8, 8], rnn_layers=1, rnn_neurons=12, dnn_neurons=12, dnn_blocks=1
    )
    return Called(network, call(noise(2, 40, 16)), (call(noise(1, 52, 16)),))


def recogniser(**settings: object) -> torch.nn.Module:
    from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR

    return TransformerASR(
        input_size=16,
        tgt_vocab=60,
        d_model=16,
        nhead=2,
        num_encoder_layers=2,
        num_decoder_layers=1,
        d_ffn=24,
        activation=torch.nn.GELU,
        **settings,
    )


@of("speechbrain", "TransformerASR, with lengths")
def transformer() -> Called:
    network = recogniser(normalize_before=True)
    return Called(network, call(noise(2, 20, 16), tokens(2, 7), LENGTHS), (call(noise(1, 24, 16), tokens(1, 5), ONE),))


@of("speechbrain", "TransformerASR, a Conformer, with lengths")
def conformer() -> Called:
    network = recogniser(
        encoder_module="conformer", normalize_before=True, attention_type="RelPosMHAXL", kernel_size=5, causal=False
    )
    return Called(network, call(noise(2, 20, 16), tokens(2, 7), LENGTHS), (call(noise(1, 24, 16), tokens(1, 5), ONE),))


@of("speechbrain", "SepFormer (Dual_Path_Model)")
def sepformer() -> Called:
    from speechbrain.lobes.models import dual_path as library

    network = library.Dual_Path_Model(
        num_spks=2,
        in_channels=16,
        out_channels=8,
        num_layers=1,
        K=8,
        norm="ln",
        linear_layer_after_inter_intra=False,
        intra_model=library.SBTransformerBlock(num_layers=1, d_model=8, nhead=2, d_ffn=16),
        inter_model=library.SBTransformerBlock(num_layers=1, d_model=8, nhead=2, d_ffn=16),
    )
    return Called(network, call(noise(2, 16, 40)), (call(noise(1, 16, 60)),))


@of("speechbrain", "ConvTasNet's MaskNet")
def tasnet() -> Called:
    from speechbrain.lobes.models.conv_tasnet import MaskNet

    return Called(MaskNet(N=16, B=8, H=16, P=3, X=2, R=2, C=2), call(noise(2, 16, 40)), (call(noise(1, 16, 60)),))


@of("speechbrain", "HifiganGenerator")
def hifigan() -> Called:
    from speechbrain.lobes.models.HifiGAN import HifiganGenerator

    network = HifiganGenerator(
        in_channels=16,
        out_channels=1,
        resblock_type="1",
        resblock_dilation_sizes=[[1, 3, 5]],
        resblock_kernel_sizes=[3],
        upsample_kernel_sizes=[8, 4],
        upsample_initial_channel=16,
        upsample_factors=[4, 2],
    )
    return Called(network, call(noise(2, 16, 20)), (call(noise(1, 16, 24)),))


@of("speechbrain", "LengthsCapableSequential, with lengths")
def sequential() -> Called:
    import speechbrain as sb
    from speechbrain.nnet.containers import LengthsCapableSequential

    network = LengthsCapableSequential(
        sb.nnet.linear.Linear(input_size=16, n_neurons=12),
        sb.nnet.normalization.LayerNorm(input_size=12),
        torch.nn.ReLU(),
        sb.nnet.pooling.StatisticsPooling(),
        sb.nnet.linear.Linear(input_size=24, n_neurons=3),
    )
    return Called(network, call(noise(2, 20, 16), lengths=LENGTHS), (call(noise(1, 24, 16), lengths=ONE),))


@of("speechbrain", "LSTM and LiGRU, with lengths")
def recurrent() -> Called:
    import speechbrain as sb
    from speechbrain.nnet.containers import LengthsCapableSequential

    network = LengthsCapableSequential(
        sb.nnet.RNN.LSTM(hidden_size=12, input_shape=[None, None, 16], bidirectional=True),
        sb.nnet.linear.Linear(input_size=24, n_neurons=12),
        torch.nn.LeakyReLU(),
        sb.nnet.linear.Linear(input_size=12, n_neurons=3),
    )
    return Called(network, call(noise(2, 20, 16), lengths=LENGTHS), (call(noise(1, 24, 16), lengths=ONE),))
