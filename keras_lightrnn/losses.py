"""The loss of models whose output is log-probabilities already."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["NegativeLogLikelihood"]


@keras.saving.register_keras_serializable("keras_lightrnn")
class NegativeLogLikelihood(keras.losses.Loss):
    """Minus the log-probability that the model gave to each target word, in nats.

    `TwoComponentSoftmax` outputs the log-probabilities of the targets themselves, so `y_true`
    says nothing new; Keras wants one, and `fit(windows, windows[:, 1:])` provides it.

    Args:
        reduction: As in every Keras loss. The default divides by the sum of the sample
            weights, so that padding of weight zero does not dilute the mean.
        **kwargs: `name` and `dtype`.

    Call arguments:
        y_true: Target word ids `(B, T)`; unused.
        y_pred: Log-probabilities `(B, T)` in nats.

    Example:

    >>> loss = NegativeLogLikelihood()
    >>> round(float(loss([[1, 2]], [[-1.0, -3.0]])), 4)
    2.0
    >>> round(float(loss([[1, 2]], [[-1.0, -3.0]], sample_weight=[[1.0, 0.0]])), 4)
    1.0
    """

    def __init__(
        self,
        reduction: str | None = "mean_with_sample_weight",
        name: str = "negative_log_likelihood",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, reduction=reduction, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.negative(y_pred)
