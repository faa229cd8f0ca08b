"""Word bias: one scalar for each word, added to the column logits of its row."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_counts
from keras_lightrnn._internal.keras_internals import untrack
from keras_lightrnn.ops import BiasTerm, compute_row_offsets
from keras_lightrnn.table.linked_variable import DerivedVariable, LinkedVariable

_WORD_BIAS = (None, "counts", "trainable")


class WordBias:
    """Mixin of a softmax layer with a word table: its word bias, and what follows from it.

    With `b[w]` the log share of word `w` in the corpus, `b[w]` is added to the column logit of
    the word's cell, and `log sum exp b` over the words of a row to the row's logit. A layer with
    zero kernels and biases then predicts the unigram distribution exactly, wherever the words
    lie, and a word that moves takes its bias along.

    A table with empty cells needs the same two terms without any bias: empty cells and empty
    rows get `EMPTY_CELL_LOGIT`.
    """

    word_table: Any
    name: str

    def _get_owner(self) -> Any:
        """Return the layer whose word bias and word vectors this one shares, or `None`."""
        return None

    def _init_word_bias(self, word_bias: str | None) -> None:
        """Make the variables, before the layer is built: counts may be assigned at once.

        Args:
            word_bias: See `TwoComponentSoftmax`.
        """
        if word_bias not in _WORD_BIAS:
            raise ValueError(
                f"`word_bias` must be one of {_WORD_BIAS}. Received: word_bias={word_bias!r}."
            )
        table = self.word_table
        size = (table.vocabulary_size,)
        self.word_bias = word_bias
        self._word_bias: Any = None
        is_owner = self._get_owner() is None
        if word_bias == "trainable" and is_owner:
            self._word_bias = self.add_weight(  # type: ignore[attr-defined]
                name="word_bias", shape=size, dtype="float32", initializer="zeros", autocast=False
            )
        elif word_bias == "counts" and is_owner:
            with keras.name_scope(self.name):
                self._word_bias = LinkedVariable(
                    keras.initializers.Zeros(), size, "float32", "word_bias"
                )
        self._has_bias_term = (
            word_bias is not None or table.vocabulary_size < table.num_rows * table.num_columns
        )
        self._row_offsets: Any = None
        if self._has_bias_term and word_bias != "trainable":
            sources = [table.words, *([] if word_bias is None else [self.word_bias_values])]
            with keras.name_scope(self.name):
                self._row_offsets = DerivedVariable(
                    lambda: compute_row_offsets(self.word_bias_values, table.words),
                    sources,
                    (table.num_rows,),
                    "float32",
                    "row_offsets",
                )
            untrack(self, self._row_offsets)  # type: ignore[arg-type]

    @property
    def variables(self) -> list[keras.Variable]:
        derived = [] if self._row_offsets is None else [self._row_offsets]
        return [*super().variables, *derived]  # type: ignore[misc]

    def assign_word_counts(self, counts: Any) -> None:
        """Set the word bias to the log share of each word in the corpus.

        Args:
            counts: `(V,)` occurrences of each word, not negative. A word that never occurs
                counts as half an occurrence, so that it keeps some probability.

        Raises:
            ValueError: if the layer has no word bias, or the counts have another shape, are
                negative, not finite, or all zero.
        """
        if self.word_bias_values is None:
            raise ValueError(
                "Word counts need a layer with a word bias. Received: word_bias=None. Make it "
                'with word_bias="counts" or "trainable".'
            )
        size = self.word_table.vocabulary_size
        counts = check_counts(counts, size).astype(np.float64)
        if not counts.any():
            raise ValueError(
                f"`counts` must not all be zero. Received: {size} zeros. Count the words of the "
                "text that the model is to be trained on."
            )
        smoothed = np.where(counts > 0, counts, 0.5)
        self.word_bias_values.assign(np.log(smoothed / smoothed.sum()).astype(np.float32))

    @property
    def word_bias_values(self) -> Any:
        """The `(V,)` weight of log shares; `None` without a word bias."""
        return (self._get_owner() or self)._word_bias

    def compute_row_offsets(self) -> Any:
        """Return what the words of each row add to its logit now, `(R,)`; `None` if nothing."""
        if self._row_offsets is not None:
            return ops.convert_to_tensor(self._row_offsets)
        if self.word_bias == "trainable":
            return compute_row_offsets(
                ops.convert_to_tensor(self.word_bias_values),
                ops.convert_to_tensor(self.word_table.words),
            )
        return None

    def _make_bias_terms(self) -> list[BiasTerm]:
        """Return the term of the column logits, or nothing where nothing is added."""
        if not self._has_bias_term:
            return []
        bias = self.word_bias_values
        bias = None if bias is None else ops.cast(bias, "float32")
        return [BiasTerm(bias, is_trainable=self.word_bias == "trainable")]
