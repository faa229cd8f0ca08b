"""Loss of models that output log-probabilities."""

from __future__ import annotations

import keras
from keras import ops

from keras_lightrnn._internal.checks import shapes_agree
from keras_lightrnn._internal.distribution import all_reduce_sum, count_replicas
from keras_lightrnn._internal.dtypes import choose_sum_dtype
from keras_lightrnn._internal.keras_internals import get_mask, set_mask
from keras_lightrnn._internal.observed_training import check_weights
from keras_lightrnn._internal.typing import Config, Dtype, Tensor
from keras_lightrnn.ops.word_ids import cast_word_ids
from keras_lightrnn.ops.word_weights import compute_word_weights

__all__ = ["NegativeLogLikelihood"]


@keras.saving.register_keras_serializable("keras_lightrnn")
class NegativeLogLikelihood(keras.losses.Loss):
    """Negative log-likelihood of the target words, in nats.

        loss = -sum(weight * log_prob) / sum(weight)

    `TwoComponentSoftmax` outputs the log-probabilities of the targets, so the values of `y_true`
    have no influence and `fit(windows)` needs no `y`. If `y` is given (`windows[:, 1:]`), its
    shape is checked. Give `y` together with `sample_weight`, because Keras ignores the weights of
    data without `y`. Do not use `class_weight`: Keras turns it into one weight for each window
    from the values of `y`, before a loss can see it. (`LightRNNModel` takes `sample_weight`
    without `y` and refuses `class_weight`.)

    Under `tf.distribute` the loss is the mean over the words of the whole batch, however padding
    and a last, smaller batch are spread over the replicas. Keras's own losses take the mean of the
    means of the replicas.

    There is no label smoothing. It needs the mean log-probability of all `V` words in every
    place, and with two softmaxes that needs the columns of all `R` rows: about `sqrt(V)` times the
    work of the loss itself.

    Args:
        reduction: As in every Keras loss. The default divides by the sum of the sample
            weights, so that padding of weight zero does not dilute the mean.
        name: Name of the loss.
        dtype: `"float64"` for float64 sums. They are float32 for every other dtype or policy,
            low precision included. Default: `keras.config.floatx()`.

    Call arguments:
        y_true: Target word ids `(B, T)`; or `None`.
        y_pred: Log-probabilities `(B, T)` in nats.
        sample_weight: One weight for each word, `(B, T)`, or for each window, `(B,)`.

    Raises:
        TypeError: if `y_true` does not hold numbers.
        ValueError: if `y_true` has another shape than `y_pred`; or for sample weights while
            `ReallocationCallback` sums states of a model without `models.ObservedTraining`.

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
        dtype: Dtype = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=choose_sum_dtype(dtype))

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return ops.negative(y_pred)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        if y_true is not None:
            _check_targets(y_true, y_pred)
        check_weights(self, sample_weight)
        mask = get_mask(y_pred)
        if sample_weight is not None:
            # Keras would take one weight for each window for one for each place in a window.
            sample_weight = compute_word_weights(y_pred, sample_weight)
        if sample_weight is not None or mask is not None:
            # Where the weight is 0 the log-probability may have any value, -inf and NaN included.
            weights = compute_word_weights(y_pred, sample_weight, mask)
            y_pred = ops.where(ops.cast(weights, "bool"), y_pred, 0.0)
            if mask is not None:
                set_mask(y_pred, mask)
        # Keras would cast word ids to floats.
        loss = super().__call__(y_pred, y_pred, sample_weight)
        if self.reduction != "mean_with_sample_weight" or count_replicas() == 1:
            return loss
        # The loss of replica i of N is S_i / (N W_i), from its sums S_i of nats and W_i of weights.
        # Keras adds the gradients of the replicas: each must be S_i over the sum of all W.
        weight = ops.sum(compute_word_weights(y_pred, sample_weight, mask, dtype=loss.dtype))
        size = ops.cast(ops.shape(y_pred)[0], loss.dtype)
        total, batch_size = all_reduce_sum(weight), all_reduce_sum(size)
        gradient = loss * ops.divide_no_nan(weight * count_replicas(), total)
        # Keras reports N times the mean of the values, weighted by the batch size of each replica.
        value = gradient * ops.divide_no_nan(batch_size, size * count_replicas())
        return gradient + ops.stop_gradient(value - gradient)

    def get_config(self) -> Config:
        return {**super().get_config(), "dtype": self.dtype}


def _check_targets(y_true: Tensor, y_pred: Tensor) -> None:
    targets = cast_word_ids(y_true)
    shapes = [tuple(ops.convert_to_tensor(x).shape) for x in (targets, y_pred)]
    if not shapes_agree(*shapes):
        remedy = "Give the targets of the softmax, such as `windows[:, 1:]` for `windows`"
        if len(shapes[0]) == len(shapes[1]) + 1 and shapes[0][-1] == 1:
            remedy = "Remove the last axis, with `y[..., 0]`"
        raise ValueError(
            "`y` must have one word for each log-probability. Received: y of shape "
            f"{shapes[0]} for log-probabilities of shape {shapes[1]}. {remedy}, or leave `y` out."
        )
