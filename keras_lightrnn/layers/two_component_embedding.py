"""Embedding of words by a shared row vector and a shared column vector."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.keras_internals import set_mask
from keras_lightrnn.layers.initializers import clone_initializer
from keras_lightrnn.layers.word_vectors import count_word_vectors
from keras_lightrnn.ops import (
    cast_word_ids,
    interleave_components,
    look_up_word_vectors,
    mark_invalid_ids,
)
from keras_lightrnn.table.word_table import get_word_table, serialize_word_table

_COMBINE = ("interleave", "sum", "concat")


@keras.saving.register_keras_serializable("keras_lightrnn")
class TwoComponentEmbedding(keras.layers.Layer):
    """Embeds a word as the vector of its row and the vector of its column in a word table.

    `R + C` vectors stand for `V <= R * C` words. A drop-in for `keras.layers.Embedding` with
    `combine="sum"` or `"concat"`; with `"interleave"` it makes the half-steps of LightRNN.

    With `word_dim=K` words have a small vector of their own besides, projected to the size `D`
    and added to that of the column: `column_embeddings[column(w)] + word_embeddings[w] ·
    word_projection`. That costs `V * K` numbers, or fewer with `num_word_vectors`.

    Args:
        word_table: `WordTable` to share, or what makes one: an `Allocation` or an integer
            vocabulary size.
        output_dim: Integer `D`, the size of each shared vector.
        combine: What becomes of the two vectors of a word.
            `"interleave"` (default): a window of `T + 1` words becomes the `2T` half-steps
            `c_0 r_1 c_1 r_2 ... c_{T-1} r_T`, `(B, T + 1) -> (B, 2T, D)`;
            `"sum"`: `(...) -> (..., D)`; `"concat"`: row then column, `(...) -> (..., 2D)`.
        embeddings_initializer: Initializer of the vectors: of rows, columns and words. (The
            projection of word vectors starts as Keras's weights do by default.)
        embeddings_regularizer: Regularizer of each of them.
        embeddings_constraint: Constraint of each of them.
        mask_zero: Boolean, whether word 0 is padding. With `"interleave"` a half-step is
            masked when its own word is padding.
        word_dim: Integer `K`, the size of the small vector of each word; 0 for none, as
            published.
        num_word_vectors: Integer, how many words have one: the words `0 .. num_word_vectors - 1`,
            which are the most frequent ones where ids go by falling frequency, as those of
            `keras_lightrnn.data.Vocabulary` do. `None` for all.
        **kwargs: `name`, `dtype`, `trainable` as in every Keras layer.

    Call arguments:
        words: Word ids in `[0, V)`; `(B, T + 1)` to interleave, of any shape otherwise.

    Returns:
        Tensor of the compute dtype, shaped as `combine` says. NaN for an id outside
        `[0, V)` where the backend cannot raise (compiled code).

    Raises:
        ValueError: for an unknown `combine`, a size that is not a positive integer, more word
            vectors than words, or a window of fewer than two words to interleave.

    Example:

    >>> import numpy as np
    >>> layer = TwoComponentEmbedding(10_000, 16)
    >>> tuple(layer(np.array([[3, 1, 4, 1, 5]])).shape)
    (1, 8, 16)
    >>> layer.count_params()  # 100 rows and 100 columns, and the table's 10,000 cells
    13200
    >>> tuple(TwoComponentEmbedding(10_000, 16, combine="sum")(np.array([[3, 1, 4]])).shape)
    (1, 3, 16)

    Reference:
        Li et al., "LightRNN", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893).
    """

    def __init__(
        self,
        word_table: Any,
        output_dim: int,
        combine: str = "interleave",
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        word_dim: int = 0,
        num_word_vectors: int | None = None,
        **kwargs: Any,
    ) -> None:
        output_dim = check_size("output_dim", output_dim)
        if combine not in _COMBINE:
            raise ValueError(f"`combine` must be one of {_COMBINE}. Received: combine={combine!r}.")
        super().__init__(**kwargs)
        self.word_table = get_word_table(word_table)
        self.output_dim = output_dim
        self.combine = combine
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self._num_vectors = count_word_vectors(
            word_dim, num_word_vectors, self.word_table.vocabulary_size
        )
        self.word_dim = word_dim
        self.num_word_vectors = num_word_vectors
        self.supports_masking = mask_zero
        self.autocast = False  # word ids must never be rounded to a float type

    def build(self, input_shape: Any = None) -> None:
        table, dim = self.word_table, self.output_dim
        self.row_embeddings = self._add_vectors("row_embeddings", 0, table.num_rows, dim)
        self.column_embeddings = self._add_vectors("column_embeddings", 1, table.num_columns, dim)
        self.word_embeddings = self.word_projection = None
        if self.word_dim:
            self.word_embeddings = self._add_vectors(
                "word_embeddings", 2, self._num_vectors, self.word_dim, autocast=False
            )  # cast as they are looked up, and not all
            self.word_projection = self.add_weight(
                name="word_projection", shape=(self.word_dim, self.output_dim)
            )
        self.built = True

    def _add_vectors(self, name: str, number: int, size: int, dim: int, **kwargs: Any) -> Any:
        return self.add_weight(
            name=name,
            shape=(size, dim),
            initializer=clone_initializer(self.embeddings_initializer, number),
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
            **kwargs,
        )

    @property
    def row_weights(self) -> list[Any]:
        """Weights with one entry for each row: they follow the words at a reallocation."""
        return [self.row_embeddings]

    @property
    def column_weights(self) -> list[Any]:
        """Weights with one entry for each column."""
        return [self.column_embeddings]

    def call(self, words: Any) -> Any:
        words = cast_word_ids(words)
        self._check_dense(words)
        self.compute_output_shape(words.shape)  # checks it
        rows, columns = self.embed_components(words)
        if self.combine == "interleave":
            return interleave_components(rows, columns)
        if self.combine == "sum":
            return rows + columns
        return ops.concatenate([rows, columns], axis=-1)

    def _check_dense(self, words: Any) -> None:
        # By name: it is TensorFlow's, which may be absent.
        if self.combine == "interleave" and type(words).__name__ == "RaggedTensor":
            raise TypeError(
                'With combine="interleave" the words must be windows (B, T + 1) of one length. '
                "Received: a RaggedTensor. Cut text into windows with `token_windows`, or use "
                'combine="sum" or "concat" for words on their own.'
            )

    def embed_components(self, words: Any) -> tuple[Any, Any]:
        """Return the row vectors and the column vectors of words, `(..., D)` each.

        The column vectors include what the words have of their own.
        """
        cells = self.word_table(words)
        num_columns = self.word_table.num_columns
        rows = self._look_up(self.row_embeddings, cells // num_columns)
        columns = self._look_up(self.column_embeddings, cells % num_columns)
        if self.word_dim:
            vectors = ops.convert_to_tensor(self.word_embeddings)
            vectors = look_up_word_vectors(vectors, words)  # (..., K)
            columns += ops.matmul(
                ops.cast(vectors, self.compute_dtype),
                ops.cast(self.word_projection, self.compute_dtype),
            )
        invalid = ops.expand_dims(mark_invalid_ids(words, self.word_table.vocabulary_size), -1)
        invalid = ops.cast(invalid, self.compute_dtype)
        return rows + invalid, columns + invalid

    def embed_prefixes(self, words: Any) -> Any:
        """Return all half-steps of prefixes, whatever `combine` is, to predict what follows them.

        The windows of training leave out the column of their last word.

        Args:
            words: `(B, N)`.

        Returns:
            `c_0 r_1 c_1 ... r_{N-1} c_{N-1}`, `(B, 2N - 1, D)`, with `mask_zero` and their mask.
        """
        words = cast_word_ids(words)
        rows, columns = self.embed_components(words)  # (B, N, D) each
        half_steps = ops.concatenate(
            [interleave_components(rows, columns), columns[:, -1:]], axis=1
        )
        if self.mask_zero:
            set_mask(half_steps, ops.repeat(ops.not_equal(words, 0), 2, axis=1)[:, 1:])
        return half_steps

    def _look_up(self, vectors: Any, indices: Any) -> Any:
        return ops.take(ops.cast(vectors, self.compute_dtype), indices, axis=0)

    def compute_mask(self, words: Any, mask: Any = None) -> Any:
        if not self.mask_zero:
            return None
        is_word = ops.not_equal(words, 0)
        if self.combine != "interleave":
            return is_word
        # The half-steps c_0 r_1 c_1 r_2 ... belong to the words 0 1 1 2 ...
        return ops.repeat(is_word, 2, axis=1)[:, 1:-1]  # (B, 2T)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        if self.combine == "interleave":
            if len(input_shape) != 2 or (input_shape[1] is not None and input_shape[1] < 2):
                raise ValueError(
                    'With combine="interleave" the words must be windows (B, T + 1) of at least '
                    f"two words. Received: shape {tuple(input_shape)}. Give longer windows, or "
                    'use combine="sum" or "concat" for words on their own.'
                )
            batch_size, length = input_shape
            return batch_size, None if length is None else 2 * (length - 1), self.output_dim
        size = self.output_dim if self.combine == "sum" else 2 * self.output_dim
        return *input_shape, size

    def compute_output_spec(self, words: Any) -> keras.KerasTensor:
        shape = self.compute_output_shape(words.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "word_table": serialize_word_table(self.word_table),
            "output_dim": self.output_dim,
            "combine": self.combine,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": keras.constraints.serialize(self.embeddings_constraint),
            "mask_zero": self.mask_zero,
            "word_dim": self.word_dim,
            "num_word_vectors": self.num_word_vectors,
        }
