"""The ranks of targets by a softmax, inside a Keras model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.keras_internals import get_mask, set_mask
from keras_lightrnn._internal.shared_objects import serialize_shared
from keras_lightrnn._internal.typing import Shape, Tensor, WordIds
from keras_lightrnn.layers.top_words import check_softmax
from keras_lightrnn.layers.two_component_softmax import TwoComponentSoftmax
from keras_lightrnn.ops import cast_word_ids


@keras.saving.register_keras_serializable("keras_lightrnn")
class TargetRanks(keras.layers.Layer):
    """The rank of each target among all words, exactly, as an output of a Keras model.

    Give this output metrics such as `metrics.RecallAtK` to have them in `model.evaluate`, and in
    `model.fit` for the validation data. In training the ranks are 0, which the metrics leave out:
    they would cost a search in each step.

    The layer uses the weights of the softmax and has none besides. See
    `TwoComponentSoftmax.compute_ranks`, which it calls.

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
        TypeError: if `softmax` is no `TwoComponentSoftmax`.
        ValueError: if it has no row reader, or the shapes disagree.

    Example:

    >>> import numpy as np
    >>> from keras_lightrnn.layers import TwoComponentEmbedding
    >>> from keras_lightrnn.losses import NegativeLogLikelihood
    >>> from keras_lightrnn.metrics import RecallAtK
    >>> embedding = TwoComponentEmbedding(30, 4, combine="gate")
    >>> softmax = TwoComponentSoftmax(embedding.word_table, row_reader="gated")
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

    def __init__(self, softmax: TwoComponentSoftmax, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_softmax(softmax)
        self.softmax = softmax
        self.supports_masking = True
        self.autocast = False  # word ids must never be rounded to a float type

    def build(self, states_shape: Shape, targets_shape: Shape = None) -> None:
        if not self.softmax.built:
            self.softmax.build(states_shape, targets_shape)
        self.built = True

    def call(
        self,
        states: Tensor,
        targets: WordIds,
        excluded: WordIds | None = None,
        training: bool | None = None,
    ) -> Any:
        targets = cast_word_ids(targets)
        if training:
            return ops.zeros_like(targets, dtype="int32")
        ranks = self.softmax.compute_ranks(states, targets, excluded)
        mask = get_mask(states)
        if mask is not None:
            set_mask(ranks, mask)
        return ranks

    def compute_mask(self, states: Tensor, previous_mask: Any = None) -> Any:
        return previous_mask

    def compute_output_spec(
        self,
        states: Tensor,
        targets: WordIds,
        excluded: WordIds | None = None,
        training: bool | None = None,
    ) -> keras.KerasTensor:
        shape = self.softmax.compute_output_shape(states.shape, targets.shape)
        return keras.KerasTensor(shape, "int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "softmax": serialize_shared(self.softmax)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TargetRanks:
        softmax = keras.saving.deserialize_keras_object(config["softmax"])
        return cls(**{**config, "softmax": softmax})
