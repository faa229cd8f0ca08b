"""The distribution of the word after a prefix, as far as it is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn.recurrence.half_step import multiply_states, run_half_step
from keras_lightrnn.search.row_search import ROWS_AT_ONCE, RowSearch

if TYPE_CHECKING:
    from keras_lightrnn.models.light_rnn_model import LightRNNModel

# JAX compiles a function for so many rows of all texts together.
_SIZES = (1, 4, 16, 64, ROWS_AT_ONCE)


class Search(RowSearch):
    """What a `LightRNNModel` says of the word after some texts.

    Make one with `Search.read`.

    Args:
        model: The model.
        row_log_probs: `(B, R)`, of the next word's row.
        states: By layer, its states `(B, H)` after a column half-step.
        products: What `multiply_states` returned of them.
        row_offsets: List of what `TwoComponentSoftmax.compute_row_offsets` returned, or empty.
    """

    def __init__(
        self,
        model: LightRNNModel,
        row_log_probs: Any,
        states: Any,
        products: Any,
        row_offsets: Any,
    ) -> None:
        self.model = model
        self.states, self.products, self.row_offsets = states, products, row_offsets
        super().__init__(ops.convert_to_numpy(row_log_probs), model.word_table.num_columns)

    @classmethod
    def read(cls, model: LightRNNModel, prefixes: np.ndarray) -> Search:
        """Return the search after prefixes of one length, `(B, N)`."""
        run = model.compile_inference(_read_prefixes)
        return cls(model, *run(ops.convert_to_tensor(prefixes)))

    def follow(self, words: np.ndarray) -> Search:
        """Return the search after one more word of each text, `(B,)`."""
        run = self.model.compile_inference(_read_words)
        results = run(ops.convert_to_tensor(words), self.states, self.row_offsets)
        return Search(self.model, *results)

    def compute_columns(self, texts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        run = self.model.compile_inference(_expand_rows)
        places = np.stack([texts, rows]).astype(np.int32)  # (2, n)
        results = run(_pad(places), self.states, self.products)
        words, log_probs = (ops.convert_to_numpy(x)[: len(rows)] for x in results)
        return words, log_probs

    def all_words(self) -> Iterator[np.ndarray]:
        """Yield the log-probabilities of all words, `(V,)`, of one text after the other."""
        num_texts, num_rows = self.row_log_probs.shape
        cells = ops.convert_to_numpy(self.model.word_table.cells)
        for text in range(num_texts):
            _, log_probs = self.expand(np.full(num_rows, text), np.arange(num_rows))
            yield log_probs.ravel()[cells]


# Compiled functions of a model and tensors.


def _read_prefixes(model: LightRNNModel, prefixes: Any) -> tuple[Any, Any, Any, Any]:
    half_steps = model.embedding.embed_prefixes(prefixes)
    _, states = model.run_recurrence(half_steps, training=False)
    offsets = model.softmax.compute_row_offsets()
    return _predict_rows(model, states, [] if offsets is None else [offsets])


def _read_words(
    model: LightRNNModel, words: Any, states: Any, row_offsets: Any
) -> tuple[Any, Any, Any, Any]:
    rows, columns = model.embedding.embed_components(words)  # (B, D) each
    # By the cells that read prefixes, for the same rounding in low precision.
    new_states = _run_cells(model, columns, _run_cells(model, rows, states))
    if model.mask_zero:
        is_word = ops.not_equal(words, 0)[:, None]
        new_states = keras.tree.map_structure(
            lambda new, old: ops.where(is_word, new, old), new_states, states
        )
    return _predict_rows(model, new_states, row_offsets)


def _predict_rows(model: LightRNNModel, states: Any, row_offsets: Any) -> tuple[Any, Any, Any, Any]:
    logits = model.softmax.compute_row_logits(_get_hidden(states), *row_offsets)  # (B, R)
    return ops.log_softmax(logits), states, multiply_states(model, states), row_offsets


def _expand_rows(model: LightRNNModel, places: Any, states: Any, products: Any) -> tuple[Any, Any]:
    texts, rows = places[0], places[1]  # (n,) each
    vectors = ops.take(model.embedding.row_embeddings, rows, axis=0)  # (n, D)
    states, products = keras.tree.map_structure(
        lambda x: ops.take(x, texts, axis=0), (states, products)
    )
    states = run_half_step(model, vectors, states, products)
    logits = model.softmax.compute_column_logits(_get_hidden(states), rows)  # (n, C)
    return ops.take(model.word_table.words, rows, axis=0), ops.log_softmax(logits)


def _run_cells(model: LightRNNModel, vectors: Any, states: Any) -> list[list[Any]]:
    """Return the states after one half-step, in half the time of a loop over one."""
    new_states = []
    for layer, of_layer in zip(model.recurrent_layers, states, strict=True):
        vectors, new = layer.cell(vectors, list(of_layer), training=False)
        new_states.append(list(new))
    return new_states


def _get_hidden(states: Any) -> Any:
    """Return the hidden state of the last layer, `(n, H)`: it is the first of its states."""
    return states[-1][0]


def _pad(places: np.ndarray) -> Any:
    """Return places `(2, n)` as a tensor, of one of a few sizes where each is compiled."""
    num_rows = places.shape[1]
    if keras.backend.backend() == "jax":
        size = next(size for size in _SIZES if size >= num_rows)
        places = np.pad(places, [(0, 0), (0, size - num_rows)])
    return ops.convert_to_tensor(places)
