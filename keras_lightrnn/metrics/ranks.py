"""Ranking metrics: how often and how high the target is among the likeliest words."""

from __future__ import annotations

import keras
from keras import ops

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.dtypes import choose_sum_dtype
from keras_lightrnn._internal.keras_internals import get_mask, set_direction
from keras_lightrnn._internal.typing import Config, Dtype, Tensor
from keras_lightrnn.metrics.totals import add_compensated
from keras_lightrnn.ops.word_weights import compute_word_weights


class RankMetric(keras.metrics.Metric):
    """Mean over targets of a gain that depends on the rank of the target.

    A subclass defines `compute_gains`. The totals stay exact beyond `2**24` targets.

    Args:
        k: Integer, the last rank with a gain; or `None` for all ranks.
        name: Name in `logs` and the progress bar.
        dtype: `"float64"` for float64 totals. They are float32 for every other dtype or policy.
            Default: `keras.config.floatx()`.
    """

    def __init__(self, k: int | None, name: str, dtype: Dtype = None) -> None:
        super().__init__(name=name, dtype=choose_sum_dtype(dtype))
        set_direction(self, "up")
        self.k = None if k is None else check_size("k", k)
        self.gain, self.gain_rest, self.targets, self.targets_rest = (
            self.add_variable(shape=(), initializer="zeros", dtype=self.dtype, name=variable)
            for variable in ("gain", "gain_rest", "targets", "targets_rest")
        )

    def compute_gains(self, ranks: Tensor) -> Tensor:
        """Return the gains of ranks, which are floats of at least 1, regardless of `k`."""
        raise NotImplementedError

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        mask = get_mask(y_pred)
        ranks = ops.cast(y_pred, self.dtype)
        weights = compute_word_weights(ranks, sample_weight, mask, dtype=self.dtype)
        weights = ops.where(ranks == 0, 0.0, weights)
        gains = self.compute_gains(ops.maximum(ranks, 1.0))
        if self.k is not None:
            gains = ops.where(ranks <= self.k, gains, 0.0)
        gains += ops.sqrt(ops.minimum(ranks, 0.0))  # NaN for the rank -1
        gains = ops.sum(ops.where(weights != 0, gains * weights, 0.0))
        add_compensated(self.gain, self.gain_rest, gains)
        add_compensated(self.targets, self.targets_rest, ops.sum(weights))

    def result(self) -> Tensor:
        return (self.gain + self.gain_rest) / (self.targets + self.targets_rest)

    def get_config(self) -> Config:
        return {**super().get_config(), "k": self.k}


@keras.saving.register_keras_serializable("keras_lightrnn")
class RecallAtK(RankMetric):
    """The share of targets among the `k` likeliest words: the mean of `rank <= k`.

    With one target for each text, it is also called hit rate, or `P@k` in the literature on
    recommendation.

    The result is NaN as long as no target counts, and if a rank is -1.

    Args:
        k: Integer, the number of likeliest words that count. Default: 10.
        name: Name in `logs` and the progress bar. Default: `"recall_at_k"`.
        dtype: `"float64"` for float64 totals. They are float32 for every other dtype or policy.
            Default: `keras.config.floatx()`.

    Call arguments:
        y_true: Unused, because the ranks are those of the targets.
        y_pred: Ranks from 1, any shape, as `TwoComponentSoftmax.compute_ranks` returns them. The
            rank 0, of padding, has no weight.
        sample_weight: Weight of each target, of the shape of `y_pred`, or of each text, `(B,)`. A
            Keras mask on `y_pred` counts as well.

    Example:

    >>> metric = RecallAtK(k=20)
    >>> metric.update_state(None, [1, 4, 90])
    >>> round(float(metric.result()), 4)
    0.6667
    """

    def __init__(self, k: int = 10, name: str = "recall_at_k", dtype: Dtype = None) -> None:
        super().__init__(k, name, dtype)

    def compute_gains(self, ranks: Tensor) -> Tensor:
        return ops.ones_like(ranks)


@keras.saving.register_keras_serializable("keras_lightrnn")
class MeanReciprocalRank(RankMetric):
    """The mean of `1 / rank`, and of 0 for ranks above `k`.

    The result is NaN as long as no target counts, and if a rank is -1.

    Args:
        k: Integer, the last rank that counts, or `None` for all. Default: `None`.
        name: Name in `logs` and the progress bar. Default: `"mean_reciprocal_rank"`.
        dtype: `"float64"` for float64 totals. They are float32 for every other dtype or policy.
            Default: `keras.config.floatx()`.

    Call arguments:
        y_true: Unused, because the ranks are those of the targets.
        y_pred: Ranks from 1, any shape, as `TwoComponentSoftmax.compute_ranks` returns them. The
            rank 0, of padding, has no weight.
        sample_weight: Weight of each target, of the shape of `y_pred`, or of each text, `(B,)`. A
            Keras mask on `y_pred` counts as well.

    Example:

    >>> metric = MeanReciprocalRank(k=20)
    >>> metric.update_state(None, [1, 4, 90])
    >>> round(float(metric.result()), 4)
    0.4167
    """

    def __init__(
        self, k: int | None = None, name: str = "mean_reciprocal_rank", dtype: Dtype = None
    ) -> None:
        super().__init__(k, name, dtype)

    def compute_gains(self, ranks: Tensor) -> Tensor:
        return 1.0 / ranks


@keras.saving.register_keras_serializable("keras_lightrnn")
class NDCG(RankMetric):
    """Normalised discounted cumulative gain: the mean of `1 / log2(1 + rank)`, and of 0 above `k`.

    There is one target for each text, whose ideal gain is 1.

    The result is NaN as long as no target counts, and if a rank is -1.

    Args:
        k: Integer, the last rank that counts, or `None` for all. Default: `None`.
        name: Name in `logs` and the progress bar. Default: `"ndcg"`.
        dtype: `"float64"` for float64 totals. They are float32 for every other dtype or policy.
            Default: `keras.config.floatx()`.

    Call arguments:
        y_true: Unused, because the ranks are those of the targets.
        y_pred: Ranks from 1, any shape, as `TwoComponentSoftmax.compute_ranks` returns them. The
            rank 0, of padding, has no weight.
        sample_weight: Weight of each target, of the shape of `y_pred`, or of each text, `(B,)`. A
            Keras mask on `y_pred` counts as well.

    Example:

    >>> metric = NDCG(k=20)
    >>> metric.update_state(None, [1, 4, 90])
    >>> round(float(metric.result()), 4)
    0.4769
    """

    def __init__(self, k: int | None = None, name: str = "ndcg", dtype: Dtype = None) -> None:
        super().__init__(k, name, dtype)

    def compute_gains(self, ranks: Tensor) -> Tensor:
        return 1.0 / ops.log2(1.0 + ranks)
