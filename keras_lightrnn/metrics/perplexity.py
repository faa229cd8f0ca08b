"""Perplexity with exact totals."""

from __future__ import annotations

import keras
from keras import ops

from keras_lightrnn._internal.dtypes import choose_sum_dtype
from keras_lightrnn._internal.keras_internals import get_mask, set_direction
from keras_lightrnn._internal.typing import Dtype, Tensor
from keras_lightrnn.metrics.totals import add_compensated
from keras_lightrnn.ops.word_weights import compute_word_weights


@keras.saving.register_keras_serializable("keras_lightrnn")
class Perplexity(keras.metrics.Metric):
    """`exp(total nats / total words)` over all words since the last reset.

    Each total is kept as a float and the rounding error of that float, so that it stays exact far
    beyond `2**24` words, where a plain float32 sum stops growing. The mean of the perplexities
    of batches is a different, larger number.

    The result is NaN, the mean of nothing, as long as no word counts.

    Args:
        name: Name in `logs` and the progress bar.
        dtype: `"float64"` for float64 totals. They are float32 for every other dtype or policy,
            low precision included. Default: `keras.config.floatx()`.

    Call arguments:
        y_true: Target word ids; unused, because the log-probabilities are those of the targets.
        y_pred: Log-probabilities of the targets in nats, any shape.
        sample_weight: Weight of each word, of the shape of `y_pred`, or of each window, `(B,)`;
            0 for padding. A Keras mask on `y_pred` counts as well, except in the train steps of
            JAX, where Keras loses it: give models that are composed of the layers a
            `sample_weight` there. `LightRNNModel` does not need it.

    Example:

    >>> import numpy as np
    >>> metric = Perplexity()
    >>> metric.update_state(None, np.log([[0.5, 0.125]]))
    >>> round(float(metric.result()), 4)
    4.0
    >>> metric.update_state(None, np.log([[0.25, 0.001]]), sample_weight=[[1.0, 0.0]])
    >>> round(float(metric.result()), 4)
    4.0
    """

    def __init__(self, name: str = "perplexity", dtype: Dtype = None) -> None:
        super().__init__(name=name, dtype=choose_sum_dtype(dtype))
        set_direction(self, "down")
        self.nats, self.nats_rest, self.words, self.words_rest = (
            self.add_variable(shape=(), initializer="zeros", dtype=self.dtype, name=variable)
            for variable in ("nats", "nats_rest", "words", "words_rest")
        )

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        mask = get_mask(y_pred)
        log_probs = ops.cast(y_pred, self.dtype)
        weights = compute_word_weights(log_probs, sample_weight, mask, dtype=self.dtype)
        # Where the weight is 0 the log-probability may have any value, -inf and NaN included.
        nats = ops.sum(ops.where(weights != 0, -log_probs * weights, 0.0))
        add_compensated(self.nats, self.nats_rest, nats)
        add_compensated(self.words, self.words_rest, ops.sum(weights))

    def result(self) -> Tensor:
        words = self.words + self.words_rest
        return ops.exp((self.nats + self.nats_rest) / words)
