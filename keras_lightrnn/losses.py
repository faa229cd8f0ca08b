"""The loss of models whose output is log-probabilities already."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.distribution import all_reduce_sum, count_replicas
from keras_lightrnn._internal.keras_internals import get_mask, set_mask
from keras_lightrnn.ops.word_weights import compute_word_weights

__all__ = ["NegativeLogLikelihood"]


@keras.saving.register_keras_serializable("keras_lightrnn")
class NegativeLogLikelihood(keras.losses.Loss):
    """Minus the log-probability that the model gave to each target word, in nats.

    `TwoComponentSoftmax` outputs the log-probabilities of the targets themselves, so `y_true`
    says nothing new; Keras wants one, and `fit(windows, windows[:, 1:])` provides it.

    Under `tf.distribute` the mean is that of the whole batch, however padding and a last, smaller
    batch fall on the replicas; Keras's own losses take the mean of the replicas' means.

    Args:
        reduction: As in every Keras loss. The default divides by the sum of the sample
            weights, so that padding of weight zero does not dilute the mean.
        **kwargs: `name` and `dtype`.

    Call arguments:
        y_true: Target word ids `(B, T)`; unused.
        y_pred: Log-probabilities `(B, T)` in nats.
        sample_weight: One weight for each word, `(B, T)`, or for each window, `(B,)`.

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

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        if sample_weight is not None:
            # Keras takes one weight for each window for one for each place in it.
            sample_weight = compute_word_weights(y_pred, sample_weight)
            # Where the weight is 0 the log-probability may be anything, -inf included.
            mask = get_mask(y_pred)
            y_pred = ops.where(ops.cast(sample_weight, "bool"), y_pred, 0.0)
            if mask is not None:
                set_mask(y_pred, mask)
        loss = super().__call__(y_true, y_pred, sample_weight)
        if self.reduction != "mean_with_sample_weight" or count_replicas() == 1:
            return loss
        # The loss is S_i / (N W_i), with the sums S_i of nats and W_i of weights of this one of N
        # replicas, whose gradients will be added: S_i over the sum of all W is wanted.
        mask = get_mask(y_pred)
        weight = ops.sum(compute_word_weights(y_pred, sample_weight, mask, dtype=loss.dtype))
        size = ops.cast(ops.shape(y_pred)[0], loss.dtype)
        total, batch_size = all_reduce_sum(weight), all_reduce_sum(size)
        gradient = loss * ops.divide_no_nan(weight * count_replicas(), total)
        # Keras reports the mean of the values, times N, weighted by the size of each share.
        value = gradient * ops.divide_no_nan(batch_size, size * count_replicas())
        return gradient + ops.stop_gradient(value - gradient)
