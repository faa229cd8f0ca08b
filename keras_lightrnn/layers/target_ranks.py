"""The ranks of targets by a softmax, inside a Keras model."""

from __future__ import annotations

import keras
from keras import ops

from keras_lightrnn._internal.keras_internals import get_mask, set_mask
from keras_lightrnn._internal.typing import Shape, Tensor, WordIds
from keras_lightrnn.layers.softmax_search import SoftmaxSearch
from keras_lightrnn.ops import cast_word_ids


@keras.saving.register_keras_serializable("keras_lightrnn")
class TargetRanks(SoftmaxSearch):
    """The rank of each target among all words, exactly, as an output of a Keras model.

    With metrics such as `metrics.RecallAtK` on this output, `model.evaluate` computes them, and so
    does `model.fit` for the validation data. In training the ranks are 0, which the metrics ignore,
    because ranks would cost a search in each step.

    The layer has no weights except those of the softmax. It calls
    `TwoComponentSoftmax.compute_ranks`.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader.
        **kwargs: `name` of the layer.

    Call arguments:
        states: `(B, T, H)` or `(B, H)`, as the softmax takes them.
        targets: Word ids, `(B, T)` or `(B,)`.
        excluded: Integers `(B, E)`, words that do not count, such as items that a user has seen;
            -1 for none. Default: `None`.
        training: Boolean, whether this is a training step.

    Returns:
        Ranks from 1, int32, of the shape of the targets, with the mask of the states.

    Raises:
        TypeError: if `softmax` is not a `TwoComponentSoftmax`.
        ValueError: if it has no row reader, or the shapes disagree.

    Example:

    >>> import numpy as np
    >>> from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
    >>> from keras_lightrnn.losses import NegativeLogLikelihood
    >>> from keras_lightrnn.metrics import RecallAtK
    >>> embedding = TwoComponentEmbedding(30, 4)
    >>> softmax = TwoComponentSoftmax(embedding.word_table)
    >>> words = keras.Input((None,), dtype="int32")
    >>> states = keras.layers.GRU(5, return_sequences=True)(embedding(words[:, :-1]))
    >>> targets = words[:, 1:]
    >>> outputs = [softmax(states, targets), TargetRanks(softmax)(states, targets)]
    >>> model = keras.Model(words, outputs)
    >>> model.compile(
    ...     "adam", [NegativeLogLikelihood(), None], weighted_metrics=[None, [RecallAtK(30)]]
    ... )
    >>> windows = np.array([[3, 1, 4], [1, 5, 9]])
    >>> logs = model.evaluate(windows, [windows[:, 1:]] * 2, verbose=0, return_dict=True)
    >>> [value for name, value in logs.items() if "recall" in name]
    [1.0]
    """

    def build(self, states_shape: Shape, targets_shape: Shape = None) -> None:
        super().build(states_shape)

    def call(
        self,
        states: Tensor,
        targets: WordIds,
        excluded: WordIds | None = None,
        training: bool | None = None,
    ) -> Tensor:
        targets = cast_word_ids(targets)
        if training:
            return ops.zeros_like(targets, dtype="int32")
        ranks = self.softmax.compute_ranks(states, targets, excluded)
        mask = get_mask(states)
        if mask is not None:
            set_mask(ranks, mask)
        return ranks

    def compute_mask(self, states: Tensor, previous_mask: Tensor = None) -> Tensor:
        return previous_mask

    def compute_output_shape(self, states_shape: Shape, targets_shape: Shape) -> Shape:
        return self.softmax.compute_output_shape(states_shape, targets_shape)

    def compute_output_spec(
        self,
        states: Tensor,
        targets: WordIds,
        excluded: WordIds | None = None,
        training: bool | None = None,
    ) -> keras.KerasTensor:
        shape = self.compute_output_shape(states.shape, targets.shape)
        return keras.KerasTensor(shape, "int32")
