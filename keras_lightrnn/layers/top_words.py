"""The likeliest words of a softmax, inside a Keras model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_k, shapes_agree
from keras_lightrnn._internal.keras_internals import get_mask
from keras_lightrnn._internal.typing import Config, Shape, Tensor, WordIds
from keras_lightrnn.layers.softmax_search import SoftmaxSearch
from keras_lightrnn.layers.two_component_softmax import TwoComponentSoftmax
from keras_lightrnn.ops import cast_word_ids
from keras_lightrnn.search.excluded import check_excluded_shape
from keras_lightrnn.search.graph_search import find_best_words
from keras_lightrnn.search.layer_search import check_state_size


@keras.saving.register_keras_serializable("keras_lightrnn")
class TopWords(SoftmaxSearch):
    """The `k` likeliest words of a softmax, exactly, as a layer of a Keras model.

    The layer has no weights except those of the softmax. It runs on every backend, in compiled
    code, and in a SavedModel written by `model.export`, which TensorFlow loads without this
    package. Outside of a graph, `TwoComponentSoftmax.next_words` returns the same words.

    Rows are expanded in descending order of probability until no remaining row can hold a better
    word. If this does not rule out most rows, all words are computed as well. Up to some 130,000
    words, rows are expanded only where the prediction of rows is sharp, and all words are computed
    where it is not.

    A model that contains both this layer and its softmax still has one softmax after it is saved
    as a `.keras` file and loaded. `keras.models.clone_model` makes two, because Keras clones layer
    by layer.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader.
        k: Integer in `[1, V]`, the number of words to return; below `V` with `mask_zero`.
        **kwargs: `name` of the layer.

    Call arguments:
        states: `(B, H)`; or `(B, T, H)`, of which the last step that is not masked is used.
        excluded: Integers `(B, E)`, words that are never returned, such as items that a user has
            seen; -1 for none. Defaults to `None`.
        k: Integers, a scalar or `(B,)`: how many words to return for each text, at most the `k`
            of the layer. Defaults to all.

    Returns:
        Word ids, int32, and their log-probabilities in nats, float32, `(B, k)` each, best first;
        ties go to the smaller id. Places without a word hold the id -1 and the log-probability
        minus infinity. The log-probabilities of a text are NaN if its state is NaN or an excluded
        id is outside `[-1, V)`. With `mask_zero`, word 0 is never returned.

    Raises:
        TypeError: if `softmax` is not a `TwoComponentSoftmax`.
        ValueError: if it has no row reader, `k` is out of range, or a shape is wrong.

    Example:

    >>> from keras_lightrnn import WordTable
    >>> from keras_lightrnn.layers import TwoComponentEmbedding
    >>> table = WordTable(30)
    >>> words = keras.Input((None,), dtype="int32")
    >>> x = TwoComponentEmbedding(table, 4)(words)
    >>> x = keras.layers.GRU(5, return_sequences=True)(x)
    >>> softmax = TwoComponentSoftmax(table)
    >>> training_model = keras.Model(words, softmax(x[:, :-1], words[:, 1:]))
    >>> model = keras.Model(words, TopWords(softmax, k=3)(x, excluded=words))
    >>> best, log_probs = model.predict(np.array([[3, 1], [4, 1]]), verbose=0)
    >>> best.shape, bool(np.isin(best[0], [3, 1]).any())
    ((2, 3), False)
    """

    def __init__(self, softmax: TwoComponentSoftmax, k: int = 10, **kwargs: Any) -> None:
        super().__init__(softmax, **kwargs)
        check_k("k", k, softmax.word_table.vocabulary_size - softmax.mask_zero)
        self.k = int(k)

    def call(
        self, states: Tensor, excluded: WordIds | None = None, k: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check_shapes(states, excluded, k)
        if len(states.shape) == 3:
            states = _take_last(states, get_mask(states))
        if excluded is not None:
            excluded = cast_word_ids(excluded)
        words, log_probs = find_best_words(self.softmax, states, self.k, excluded)
        if k is None:
            return words, log_probs
        numbers = ops.reshape(ops.cast(k, "int32"), (-1, 1))
        is_asked = ops.arange(self.k, dtype="int32") < numbers
        return ops.where(is_asked, words, -1), ops.where(is_asked, log_probs, -np.inf)

    def compute_mask(self, states: Tensor, previous_mask: Tensor = None) -> None:
        return None

    def _check_shapes(self, states: Tensor, excluded: Tensor, k: Tensor) -> None:
        shape = tuple(states.shape)
        if len(shape) not in (2, 3):
            raise ValueError(
                f"`states` must be (B, H) or (B, T, H). Received: states.shape={shape}."
            )
        check_state_size(self.softmax, shape, f"Received: states.shape={shape}, ")
        if excluded is not None:
            check_excluded_shape(excluded, shape[0])
        k_shape = tuple(k.shape) if hasattr(k, "shape") else np.shape(k)
        if k is not None and not any(
            shapes_agree(k_shape, allowed) for allowed in ((), (1,), shape[:1], (shape[0], 1))
        ):
            raise ValueError(
                "`k` must be a scalar or (B,), one number for each text. Received: "
                f"k.shape={k_shape}, states.shape={shape}."
            )

    def compute_output_shape(self, states_shape: Shape) -> tuple[Shape, Shape]:
        shape = states_shape[0], self.k
        return shape, shape

    def compute_output_spec(
        self, states: Tensor, excluded: WordIds | None = None, k: Tensor | None = None
    ) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        self._check_shapes(states, excluded, k)
        shape, _ = self.compute_output_shape(states.shape)
        return keras.KerasTensor(shape, "int32"), keras.KerasTensor(shape, "float32")

    def get_config(self) -> Config:
        return {**super().get_config(), "k": self.k}


def _take_last(states: Tensor, mask: Tensor) -> Tensor:
    """Return the last step of each text that is not masked, `(B, T, H) -> (B, H)`."""
    if mask is None:
        return states[:, -1]
    places = ops.arange(ops.shape(mask)[1], dtype="int32")
    last = ops.max(ops.where(mask, places, 0), axis=1)
    return ops.squeeze(ops.take_along_axis(states, last[:, None, None], axis=1), 1)
