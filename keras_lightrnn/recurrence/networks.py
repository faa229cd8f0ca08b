"""An embedding and a recurrent stack as one network over words: by half-steps or word by word.

The embedding is an argument: `recurrence` does not import `layers`.
"""

from __future__ import annotations

import abc
from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.keras_internals import get_mask, set_mask
from keras_lightrnn._internal.typing import Cache, Tensor, WordIds
from keras_lightrnn.ops import mark_invalid_ids
from keras_lightrnn.ops.look_up import look_up
from keras_lightrnn.recurrence.stack import RecurrentStack, choose_num_parts

States = list[list[Tensor]]


class WordNetwork(abc.ABC):
    """Reads words into states, from which a softmax predicts the next word.

    Args:
        embedding: `TwoComponentEmbedding`.
        stack: `RecurrentStack`.
    """

    def __init__(self, embedding: Any, stack: RecurrentStack) -> None:
        self.embedding = embedding
        self.stack = stack

    def run_windows(
        self,
        words: WordIds,
        states: States | None = None,
        training: bool | None = None,
        fused: bool = False,
        jit_compile: bool = False,
    ) -> tuple[Tensor, States]:
        """Return what the softmax needs to predict the words 1..T of windows, and the last states.

        Args:
            words: Windows `(B, T + 1)`.
            states: By layer, its states `(B, H)`; `None` for zeros.
            training: Boolean, whether dropout is applied.
            fused: Boolean, whether the package's recurrence runs, and not the Keras layers.
            jit_compile: Boolean, whether XLA compiles the whole step around it.
        """
        words = self._cut_windows(words)
        if not fused:
            vectors = self.embedding(words)
            mask = get_mask(vectors)
            return self.stack(vectors, states, mask=mask, training=training, fused=False)
        mask = self.embedding.compute_mask(words)
        num_parts = choose_num_parts(words.shape[0], jit_compile)
        options: Any = {"mask": mask, "training": training, "num_parts": num_parts}
        if self.stack.dropout and training:  # drops other numbers of each occurrence of a vector
            hidden, new_states = self.stack.run_fused(self.embedding(words), states, **options)
        else:
            states = self._mark_invalid(words, states)
            table, places, added = self.embedding.index_vectors(words)
            hidden, new_states = self.stack.run_fused(
                table, states, indices=places, added=added, **options
            )
        if mask is not None:
            set_mask(hidden, mask)
        return hidden, new_states

    @abc.abstractmethod
    def _cut_windows(self, words: WordIds) -> WordIds:
        """Return the words of windows `(B, T + 1)` that the embedding reads."""

    def get_word_states(self, states: Tensor) -> Tensor:
        """Return those states of `run_windows` that precede the words 1..T, `(B, T, H)`."""
        return states

    # The steps of `keras_lightrnn.search.StepNetwork`.

    def start(
        self, words: WordIds, lengths: Tensor | None, max_length: int | None, source: Any
    ) -> tuple[Tensor, Cache]:
        """Return the hidden states `(B, H)` after prefixes, from the zero state, and a cache.

        Args:
            words: `(B, N)`.
            lengths: `(B,)`, how many words each prefix has; `None` if all have `N`.
            max_length, source: Not used.
        """
        _, *started = self.start_with_states(words, lengths)
        return tuple(started)

    def start_with_states(
        self, words: WordIds, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor, Cache]:
        """Return the states after each word of prefixes, `(B, N, H)`, and what `start` does."""
        hidden, states = self._run_prefixes(words, lengths)
        return hidden, self.get_hidden(states), self._make_cache(states)

    def step(self, words: WordIds, cache: Cache) -> tuple[Tensor, Cache]:
        """Return the same after one more word of each text, `(B,)`."""
        states = self._run_words(words, self._get_states(cache))
        return self.get_hidden(states), self._make_cache(states)

    def _make_cache(self, states: States) -> Cache:
        return states

    def _get_states(self, cache: Cache) -> States:
        return cache

    @abc.abstractmethod
    def _run_prefixes(self, words: WordIds, lengths: Tensor | None) -> tuple[Tensor, States]:
        """Return the hidden states after each word of prefixes, and the states after prefixes."""

    @abc.abstractmethod
    def _read_words(self, words: WordIds, states: States) -> States:
        """Return the states after one more word of each text, `(B,)`, padding included."""

    def _run_words(self, words: WordIds, states: States) -> States:
        """Return the states after one more word of each text, `(B,)`."""
        new_states = self._read_words(words, states)
        if not self.embedding.mask_zero:
            return new_states
        is_word = ops.not_equal(words, 0)[:, None]
        return keras.tree.map_structure(
            lambda new, old: ops.where(is_word, new, old), new_states, states
        )

    @staticmethod
    def get_hidden(states: States) -> Tensor:
        """Return the hidden state of the last layer, `(B, H)`."""
        return states[-1][0]

    def _mark_invalid(self, words: WordIds, states: States | None) -> States:
        """Return states that are NaN for windows with an id outside the vocabulary.

        Compiled code clamps wrong ids in silence.
        """
        if states is None:
            states = self.stack.make_zero_states(words)
        invalid = mark_invalid_ids(words, self.embedding.word_table.vocabulary_size)
        invalid = ops.sum(invalid, axis=1, keepdims=True)  # (B, 1)
        first, *others = states
        return [[ops.cast(state, "float32") + invalid for state in first], *others]


class HalfStepNetwork(WordNetwork):
    """The published form: two half-steps a word, the second one reads the row of the next word."""

    def _cut_windows(self, words: WordIds) -> WordIds:
        return words

    def get_word_states(self, states: Tensor) -> Tensor:
        return states[:, ::2]

    def _run_prefixes(self, words: WordIds, lengths: Tensor | None) -> tuple[Tensor, States]:
        half_steps = self.embedding.embed_prefixes(words)
        mask = get_mask(half_steps)
        if lengths is not None:
            # The half-steps belong to the words 0 1 1 2 2 ...
            places = (ops.arange(ops.shape(half_steps)[1], dtype="int32") + 1) // 2
            mask = _join_masks(mask, places < lengths[:, None])
        hidden, states = self.stack(half_steps, mask=mask, training=False)
        return hidden[:, ::2], states

    def _make_cache(self, states: States) -> Cache:
        return states, self.stack.multiply_states(states)

    def _get_states(self, cache: Cache) -> States:
        return cache[0]

    def _read_words(self, words: WordIds, states: States) -> States:
        rows, columns = self.embedding.embed_components(words)  # (B, D) each
        # By the cells that read prefixes, for the same rounding in low precision.
        after_rows = self.stack.run_cells(rows, states)
        if self.embedding.mask_zero:  # the row of a text's first word is not read
            hidden = self.get_hidden(states)
            has_begun = ops.any(ops.not_equal(hidden, 0), axis=1, keepdims=True)
            after_rows = keras.tree.map_structure(
                lambda new, old: ops.where(has_begun, new, old), after_rows, states
            )
        return self.stack.run_cells(columns, after_rows)

    def read_rows(self, rows: Tensor, cache: Cache) -> Tensor:
        """Return the row half-steps `(n, H)` after rows `(n,)`, by the cache of each."""
        states, products = cache
        vectors = look_up(self.embedding.row_embeddings, rows)  # (n, D)
        return self.get_hidden(self.stack.run_step(vectors, states, products))


class WordStepNetwork(WordNetwork):
    """One step a word: the softmax has a row reader, which reads the row of the next word."""

    def _cut_windows(self, words: WordIds) -> WordIds:
        return words[:, :-1]

    def _run_prefixes(self, words: WordIds, lengths: Tensor | None) -> tuple[Tensor, States]:
        vectors = self.embedding(words)
        mask = get_mask(vectors)
        if lengths is not None:
            places = ops.arange(ops.shape(words)[1], dtype="int32")
            mask = _join_masks(mask, places < lengths[:, None])
        return self.stack(vectors, mask=mask, training=False)

    def _read_words(self, words: WordIds, states: States) -> States:
        # Not `__call__`, which attaches a mask: `_run_words` applies it.
        return self.stack.run_cells(self.embedding.call(words), states)


def _join_masks(mask: Tensor | None, other: Tensor) -> Tensor:
    return other if mask is None else ops.logical_and(mask, other)
