"""Perplexity from exact totals."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.keras_internals import get_mask
from keras_lightrnn.ops.word_weights import compute_word_weights


@keras.saving.register_keras_serializable("keras_lightrnn")
class Perplexity(keras.metrics.Metric):
    """`exp(total nats / total words)` over everything seen since the last reset.

    Both totals are kept as a float32 and what rounding cut off it, so that they stay exact far
    beyond `2**24` words, where a plain float32 sum stops growing. The mean of the perplexities
    of batches is another, larger number.

    Args:
        name: Name in `logs` and the progress bar.
        dtype: As in every Keras metric.

    Call arguments:
        y_true: Target word ids; unused, the log-probabilities are of the targets.
        y_pred: Log-probabilities of the targets in nats, any shape.
        sample_weight: Weight of each word, of the shape of `y_pred`, or of each window, `(B,)`;
            0 for padding. A Keras mask on `y_pred` counts as well, but not in the train steps of
            JAX, where Keras loses it: give models that are composed of the layers a
            `sample_weight` there. `LightRNNModel` needs none.

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

    def __init__(self, name: str = "perplexity", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self._direction = "down"  # for callbacks that look for the best
        self.nats, self.nats_rest, self.words, self.words_rest = (
            self.add_variable(shape=(), initializer="zeros", name=variable)
            for variable in ("nats", "nats_rest", "words", "words_rest")
        )

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        mask = get_mask(y_pred)
        log_probs = ops.cast(y_pred, self.dtype)
        weights = compute_word_weights(log_probs, sample_weight, mask, dtype=self.dtype)
        # Where the weight is 0 the log-probability may be anything, -inf included.
        nats = ops.sum(ops.where(weights > 0, -log_probs * weights, 0.0))
        _add_compensated(self.nats, self.nats_rest, nats)
        _add_compensated(self.words, self.words_rest, ops.sum(weights))

    def result(self) -> Any:
        words = self.words + self.words_rest
        nats = self.nats + self.nats_rest
        return ops.exp(ops.where(words > 0, nats / ops.maximum(words, 1e-30), 0.0))


def _add_compensated(total: Any, rest: Any, value: Any) -> None:
    """Add `value` to `total + rest`, `rest` being what `total` cannot hold (Knuth's two-sum)."""
    old = ops.convert_to_tensor(total)
    new = old + value
    added = new - old
    # The rest first: on TensorFlow `old` is the variable itself and changes with it.
    lost = (old - (new - added)) + (value - added)
    rest.assign(rest + ops.where(ops.isfinite(new), lost, 0.0))
    total.assign(new)
