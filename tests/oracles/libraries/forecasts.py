"""pytorch_forecasting: networks of time series, which take a dictionary."""

from __future__ import annotations

import pandas
import torch
from survey import Call, call
from torch import Tensor

from libraries.called import Called, of


def data(weeks: int = 40) -> pandas.DataFrame:
    """Two series, with a category and a number that are known in advance."""
    steps = torch.arange(weeks)
    made = [
        pandas.DataFrame(
            {
                "step": steps.numpy(),
                "series": name,
                "value": (steps * phase).sin().numpy() + 2.0,
                "price": (steps * 0.3 * phase).cos().numpy(),
                "day": [str(int(i) % 3) for i in steps],
            }
        )
        for name, phase in (("a", 0.7), ("b", 0.4))
    ]
    return pandas.concat(made, ignore_index=True)


def forecast(kind: str, plain: bool = False, **settings: object) -> Called:
    import pytorch_forecasting as library

    extra = (
        {}
        if plain
        else {
            "time_varying_known_categoricals": ["day"],
            "time_varying_known_reals": ["price", "step"],
            "static_categoricals": ["series"],
        }
    )
    series = library.TimeSeriesDataSet(
        data(),
        time_idx="step",
        target="value",
        group_ids=["series"],
        max_encoder_length=8,
        max_prediction_length=4,
        min_encoder_length=8,
        time_varying_unknown_reals=["value"],
        **extra,
        target_normalizer=library.GroupNormalizer(groups=["series"]) if not plain else library.EncoderNormalizer(),
    )
    network = getattr(library, kind).from_dataset(series, **settings)

    def of_batch(size: int) -> Call:
        x, _ = next(iter(series.to_dataloader(train=False, batch_size=size)))
        return call(
            {k: v for k, v in x.items() if isinstance(v, Tensor)}
            | {k: v for k, v in x.items() if not isinstance(v, Tensor)}
        )

    return Called(network, of_batch(3), (of_batch(5),))


@of("pytorch_forecasting", "TemporalFusionTransformer")
def fusion() -> Called:
    return forecast("TemporalFusionTransformer", hidden_size=8, attention_head_size=2, hidden_continuous_size=4)


@of("pytorch_forecasting", "NBeats")
def nbeats() -> Called:
    return forecast("NBeats", plain=True, widths=[16, 16], num_blocks=[1, 1], num_block_layers=[2, 2])


@of("pytorch_forecasting", "NHiTS")
def nhits() -> Called:
    return forecast("NHiTS", hidden_size=16)


@of("pytorch_forecasting", "DeepAR")
def deep_ar() -> Called:
    return forecast("DeepAR", hidden_size=8)


@of("pytorch_forecasting", "DecoderMLP")
def mlp() -> Called:
    return forecast("DecoderMLP", hidden_size=16)


@of("pytorch_forecasting", "RecurrentNetwork")
def recurrent() -> Called:
    return forecast("RecurrentNetwork", plain=True, hidden_size=8)


@of("pytorch_forecasting", "TiDEModel")
def tide() -> Called:
    return forecast("TiDEModel", hidden_size=16)
