"""Embedding of words by a shared row vector and a shared column vector."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.frozen_parts import (
    HasParts,
    load_frozen_parts,
    serialize_frozen_parts,
)
from keras_lightrnn._internal.keras_internals import set_mask, track_for_checkpoints
from keras_lightrnn._internal.shared_objects import (
    check_is_stored,
    load_shared,
    serialize_shared_id,
)
from keras_lightrnn._internal.typing import (
    Config,
    Constraint,
    Initializer,
    Regularizer,
    Shape,
    Tensor,
    WordIds,
)
from keras_lightrnn.clustering.vectors import backfit, check_features, compute_share_left
from keras_lightrnn.layers.initializers import clone_initializer
from keras_lightrnn.layers.word_vectors import serialize_word_vectors, set_word_vectors
from keras_lightrnn.ops import (
    cast_word_ids,
    interleave_components,
    look_up_word_vectors,
    mark_invalid_ids,
)
from keras_lightrnn.ops.look_up import look_up
from keras_lightrnn.ops.products import project
from keras_lightrnn.table.word_table import WordTable, get_word_tables, serialize_word_tables

_COMBINE = ("gate", "sum", "concat", "interleave")
# Of the columns' numbers that rows gate. Gates start at zero and learn faster with larger numbers.
_GATED_STDDEV = 0.2
_GATE_POOL = 8


@keras.saving.register_keras_serializable("keras_lightrnn")
class TwoComponentEmbedding(HasParts, keras.layers.Layer):
    """Embeds a word by the vector of its row and the vector of its column in a word table.

    `R + C` vectors represent `V <= R * C` words. The layer is a drop-in for
    `keras.layers.Embedding`: one vector for each word. With `combine="interleave"` it makes the
    half-steps of LightRNN, as published.

    With `word_dim=K`, each word also has a small vector, which is projected to the size `D` and
    added to the vector of the column: `column_embeddings[column(w)] + word_embeddings[w] ·
    word_projection`. The vectors cost `V * K` numbers, or fewer with `num_word_vectors`.

    Args:
        word_table: `WordTable` to share, or an `Allocation` or an integer vocabulary size to make
            one. Or a list of these for several tables, whose vectors are added.
        output_dim: Integer `D`, the size of each shared vector.
        combine: String, how the two vectors of a word are combined.
            `"gate"` (default): `row + column + pool(gated_embeddings[column] * input_gate[row]) ·
            gate_projection`, `(...) -> (..., D)`: the row also gates `gate_dim` numbers of the
            column, and groups of `gate_pool` of these are summed. It gives the lowest perplexity
            of networks with one step a word;
            `"sum"`: `row + column`, `(...) -> (..., D)`;
            `"concat"`: row then column, `(...) -> (..., 2D)`;
            `"interleave"`: a window of `T + 1` words becomes the `2T` half-steps
            `c_0 r_1 c_1 r_2 ... c_{T-1} r_T`, `(B, T + 1) -> (B, 2T, D)`, for a softmax with
            `row_reader=None`.
        embeddings_initializer: Initializer of the vectors of rows, columns and words. (The
            projection of word vectors has Keras's default initializer.)
        embeddings_regularizer: Regularizer of these vectors.
        embeddings_constraint: Constraint of these vectors. The weights of the gate have initial
            values of their own, and no regularizer or constraint.
        gate_dim: Integer, how many numbers of a column a row gates, with `combine="gate"`; a
            multiple of `gate_pool`. `None` for about `output_dim`.
        gate_pool: Integer, the number of gated numbers that are summed into one before the
            projection, whose cost is divided by it (multi-modal factorized bilinear pooling), with
            `combine="gate"`. `None` for 8.
        mask_zero: Boolean, whether word 0 is padding. With `"interleave"`, the half-steps of
            padding are masked, and so is the row half-step of the first word after padding at the
            start, so that padding before or after a text changes nothing.
        word_dim: Integer `K`, the size of the small vector of each word; 0 for none, as
            published.
        num_word_vectors: Integer, the number of words with a vector: the words
            `0 .. num_word_vectors - 1`, which are the most frequent if ids are in descending order
            of frequency, as in `keras_lightrnn.data.Vocabulary`. `None` for all.
        word_vectors: `WordVectors` to share with the softmax, instead of `word_dim`. Defaults to
            `None`.
        **kwargs: `name`, `dtype`, `trainable` as in every Keras layer.

    Call arguments:
        words: Word ids in `[0, V)`; `(B, T + 1)` to interleave, of any shape otherwise.

    Returns:
        Tensor of the compute dtype; `combine` determines the shape. NaN for an id outside `[0, V)`
        if the backend cannot raise an error (compiled code).

    Raises:
        ValueError: for an unknown `combine`, a size that is not a positive integer, sizes of the
            gate without `combine="gate"`, more word vectors than words, or a window of fewer than
            two words to interleave.

    Example:

    >>> import numpy as np
    >>> words = np.array([[3, 1, 4, 1, 5]])
    >>> tuple(TwoComponentEmbedding(10_000, 16)(words).shape)
    (1, 5, 16)
    >>> layer = TwoComponentEmbedding(10_000, 16, combine="sum")
    >>> tuple(layer(words).shape)
    (1, 5, 16)
    >>> layer.count_params()  # 100 rows and 100 columns, and the table's 10,000 cells
    13200

    As published, half-steps:

    >>> tuple(TwoComponentEmbedding(10_000, 16, combine="interleave")(words).shape)
    (1, 8, 16)

    Reference:
        Li et al., "LightRNN", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893).
        Pooling: Yu et al., "Multi-modal Factorized Bilinear Pooling with Co-Attention Learning for
        Visual Question Answering", ICCV 2017,
        [arXiv:1708.01471](https://arxiv.org/abs/1708.01471). The gate is this package's own.
    """

    def __init__(
        self,
        word_table: Any,
        output_dim: int,
        combine: str = "gate",
        embeddings_initializer: Initializer = "uniform",
        embeddings_regularizer: Regularizer = None,
        embeddings_constraint: Constraint = None,
        mask_zero: bool = False,
        word_dim: int = 0,
        num_word_vectors: int | None = None,
        gate_dim: int | None = None,
        gate_pool: int | None = None,
        word_vectors: Any = None,
        **kwargs: Any,
    ) -> None:
        output_dim = check_size("output_dim", output_dim)
        if combine not in _COMBINE:
            raise ValueError(f"`combine` must be one of {_COMBINE}. Received: combine={combine!r}.")
        super().__init__(**kwargs)
        word_tables = get_word_tables(word_table)
        if len(word_tables) > 1 and combine == "interleave":
            raise ValueError(
                "Several tables need one vector a word. Received: "
                f'{len(word_tables)} word tables, combine="interleave". Give combine="gate", "sum" '
                'or "concat".'
            )
        for name, size in (("gate_dim", gate_dim), ("gate_pool", gate_pool)):
            if size is None:
                continue
            check_size(name, size)
            if combine != "gate":
                raise ValueError(
                    f'`{name}` needs combine="gate". Received: {name}={size}, combine={combine!r}. '
                    "Leave it at None."
                )
        self.gate_dim = gate_dim
        self.gate_pool: Any = gate_pool
        if combine == "gate" and gate_pool is None:
            self.gate_pool = _GATE_POOL
        if gate_dim is not None and gate_dim % self.gate_pool:
            raise ValueError(
                f"`gate_dim` must be a multiple of `gate_pool`. Received: gate_dim={gate_dim}, "
                f"gate_pool={self.gate_pool}. Give a multiple of {self.gate_pool}, or gate_pool=1 "
                "to project each gated number."
            )
        self.word_table = word_tables[0]
        self.output_dim = output_dim
        self.combine = combine
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self._num_vectors = set_word_vectors(self, word_vectors, word_dim, num_word_vectors)
        self.supports_masking = mask_zero
        self.autocast = False  # word ids must never be rounded to a float type
        self.further_tables = [
            TwoComponentEmbedding(
                table,
                output_dim,
                combine,
                clone_initializer(self.embeddings_initializer, 1_000 * index),
                embeddings_regularizer,
                embeddings_constraint,
                mask_zero,
                gate_dim=gate_dim,
                gate_pool=gate_pool,
                dtype=self.dtype_policy,
                trainable=self.trainable,
                name=f"table_{index}",
            )
            for index, table in enumerate(word_tables[1:], 1)
        ]
        track_for_checkpoints(self, "further_tables")

    def list_tables(self) -> list[TwoComponentEmbedding]:
        """Return the embedding of each table: this layer, then those of the further tables."""
        return [self, *self.further_tables]

    def _get_parts(self) -> dict[str, keras.layers.Layer]:
        parts = {table.name: table for table in self.further_tables}
        return parts if self.word_vectors is None else {**parts, "word_vectors": self.word_vectors}

    @property
    def word_tables(self) -> list[WordTable]:
        """The table of this layer, then the further tables."""
        return [layer.word_table for layer in self.list_tables()]

    def build(self, input_shape: Shape = None) -> None:
        table, dim = self.word_table, self.output_dim
        self.row_embeddings = self._add_vectors("row_embeddings", 0, table.num_rows, dim)
        self.column_embeddings = self._add_vectors("column_embeddings", 1, table.num_columns, dim)
        self.input_gate = self.gated_embeddings = self.gate_projection = None
        if self.combine == "gate":
            pooled_dim = max(dim // self.gate_pool, 1)
            if self.gate_dim is not None:
                pooled_dim = self.gate_dim // self.gate_pool
            gate_dim = self.gate_pool * pooled_dim
            self.input_gate = self.add_weight(
                name="input_gate", shape=(table.num_rows, gate_dim), initializer="zeros"
            )
            self.gated_embeddings = self.add_weight(
                name="gated_embeddings",
                shape=(table.num_columns, gate_dim),
                initializer=keras.initializers.RandomNormal(stddev=_GATED_STDDEV),
            )
            self.gate_projection = self.add_weight(name="gate_projection", shape=(pooled_dim, dim))
        self._word_embeddings: keras.Variable | None = None
        self.word_projection: Tensor = None
        if self.word_vectors is not None and not self.word_vectors.built:
            self.word_vectors.build()
        if self.word_dim:
            if self.word_vectors is None:
                self._word_embeddings = self._add_vectors(
                    "word_embeddings", 2, self._num_vectors, self.word_dim, autocast=False
                )  # cast as they are looked up, and not all
            self.word_projection = self.add_weight(
                name="word_projection", shape=(self.word_dim, self.output_dim)
            )
        for table in self.further_tables:
            if not table.built:  # type: ignore[has-type]
                table.build(input_shape)
        self.built = True

    @property
    def word_embeddings(self) -> keras.Variable | None:
        """The vectors of words, `(N, K)`; `None` for none."""
        return self._word_embeddings if self.word_vectors is None else self.word_vectors.vectors

    def _add_vectors(
        self, name: str, number: int, size: int, dim: int, **kwargs: Any
    ) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(size, dim),
            initializer=clone_initializer(self.embeddings_initializer, number),
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
            **kwargs,
        )

    def assign_vectors(self, vectors: Any) -> float:
        """Set the weights to the closest approximation of a trained embedding.

        The vectors of rows and columns of all tables minimise the squared error. With `word_dim=K`,
        the word vectors and their projection are the `K` largest singular components of the
        residual. An `input_gate` is set to zero.
        `Allocation.from_features(vectors)` makes a table for them.

        Args:
            vectors: `(V, D)` floats, such as the weight of a `keras.layers.Embedding`.

        Returns:
            Float in [0, 1], the share of the vectors' energy that is lost: the squared error
            divided by the sum of squares.

        Raises:
            ValueError: if the vectors have another shape or are not finite, or the layer
                concatenates its components.

        Example:

        >>> from keras_lightrnn import Allocation
        >>> trained = np.random.default_rng(0).normal(size=(100, 8))
        >>> table = Allocation.from_features(trained)
        >>> layer = TwoComponentEmbedding(table, 8)
        >>> 0.2 < layer.assign_vectors(trained) < 0.5
        True
        >>> layer = TwoComponentEmbedding(table, 8, word_dim=4)
        >>> 0.0 < layer.assign_vectors(trained) < 0.2
        True
        """
        if self.combine == "concat":
            raise ValueError(
                "Vectors can be assigned where a word is the sum of its components. Received: "
                'combine="concat". Make the layer with combine="gate" or "sum".'
            )
        vectors = check_features(vectors)
        shape = (self.word_table.vocabulary_size, self.output_dim)
        if vectors.shape != shape:
            raise ValueError(
                f"`vectors` must hold one vector for each word, {shape}. Received: "
                f"vectors.shape={vectors.shape}. Make the layer with the size of the vectors."
            )
        if not self.built:
            self.build((None, None))
        tables = self.list_tables()
        rest, fitted = backfit(vectors, [table.allocation for table in self.word_tables])
        for table, (row_vectors, column_vectors) in zip(tables, fitted, strict=True):
            table.row_embeddings.assign(row_vectors)
            table.column_embeddings.assign(column_vectors)
            if table.input_gate is not None:
                table.input_gate.assign(np.zeros(table.input_gate.shape))
        if self.word_dim:
            head = rest[: self._num_vectors]
            _, directions = np.linalg.eigh(head.T.astype(np.float64) @ head)  # rising
            projection = np.zeros((self.word_dim, self.output_dim), np.float32)
            largest = directions[:, ::-1].T[: self.word_dim]  # K or D of them
            projection[: len(largest)] = largest
            self.word_projection.assign(projection)
            assert self.word_embeddings is not None  # `word_dim` is positive
            self.word_embeddings.assign(head @ projection.T)
            head -= head @ projection.T @ projection
        return compute_share_left(rest, vectors)

    def call(self, words: WordIds) -> Tensor:
        if type(words).__name__ == "RaggedTensor":  # TensorFlow's, which may be absent
            self._refuse_half_steps()
            return words.with_flat_values(self.call(words.flat_values))
        words = cast_word_ids(words)
        self.compute_output_shape(words.shape)  # checks it
        vectors = [table._combine(words) for table in self.list_tables()]
        return vectors[0] if len(vectors) == 1 else sum(vectors[1:], vectors[0])

    def _combine(self, words: WordIds) -> Tensor:
        """Return the vectors by this table."""
        rows, columns = self.embed_components(words)
        if self.combine == "gate":
            gated = project(
                self._gate_columns(*self._find_cells(words)),
                ops.cast(self.gate_projection, self.compute_dtype),
            )
            return rows + columns + gated
        if self.combine == "interleave":
            return interleave_components(rows, columns)
        if self.combine == "sum":
            return rows + columns
        return ops.concatenate([rows, columns], axis=-1)

    def _refuse_half_steps(self) -> None:
        if self.combine == "interleave":
            raise TypeError(
                'With combine="interleave" the words must be windows (B, T + 1) of one length. '
                "Received: a RaggedTensor. Cut text into windows with `token_windows`, or use "
                'combine="gate", "sum" or "concat" for one vector a word.'
            )

    def embed_components(self, words: WordIds) -> tuple[Tensor, Tensor]:
        """Return the row vectors and the column vectors of words, `(..., D)` each.

        The column vectors include the projected word vectors.
        """
        rows, columns = self._find_cells(words)
        row_vectors = self._look_up(self.row_embeddings, rows)
        column_vectors = self._look_up(self.column_embeddings, columns)
        if self.word_dim:
            column_vectors += self._embed_word_vectors(words)
        invalid = self._mark_invalid(words)
        return row_vectors + invalid, column_vectors + invalid

    def _gate_columns(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the gated and pooled numbers of columns, `(..., gate_dim / gate_pool)`."""
        gates = self._look_up(self.input_gate, rows)
        gated = self._look_up(self.gated_embeddings, columns) * gates
        first, *others = ops.split(gated, self.gate_pool, axis=-1)
        return sum(others, first)

    def _find_cells(self, words: WordIds) -> tuple[Tensor, Tensor]:
        """Return the rows and the columns of words."""
        cells = self.word_table(words)
        return cells // self.word_table.num_columns, cells % self.word_table.num_columns

    def _embed_word_vectors(self, words: WordIds) -> Tensor:
        return project(
            self._look_up_word_vectors(words), ops.cast(self.word_projection, self.compute_dtype)
        )

    def _look_up_word_vectors(self, words: WordIds) -> Tensor:
        vectors = look_up_word_vectors(ops.convert_to_tensor(self.word_embeddings), words)
        return ops.cast(vectors, self.compute_dtype)  # (..., K)

    def _mark_invalid(self, words: WordIds) -> Tensor:
        invalid = mark_invalid_ids(words, self.word_table.vocabulary_size)
        return ops.cast(ops.expand_dims(invalid, -1), self.compute_dtype)

    def index_vectors(self, words: WordIds) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return the result of `call` as sums of vectors in a table, and factors of a product.

        A recurrence can multiply the table by its kernel once and look the products up. Only for
        `combine="interleave"` and `"gate"`.

        Args:
            words: As in `call`, with two axes.

        Returns:
            The vectors of rows and columns, `(N, D)`; the indices of those to add at each of the
            `L` steps, `(B, L, n)` int32; and vectors `(B, L, K)` with their projection `(K, D)`,
            whose product is added, or two `None`.
        """
        if self.combine == "interleave":
            return self._index_half_steps(words)
        vectors, places, factors, projections = [], [], [], []
        start = 0
        for table in self.list_tables():
            rows, columns = table._find_cells(words)
            num_rows, num_columns = table.word_table.table_shape
            places += [start + rows, start + num_rows + columns]
            start += num_rows + num_columns
            vectors += [table.row_embeddings, table.column_embeddings]
            factors.append(table._gate_columns(rows, columns))
            projections.append(table.gate_projection)
        if self.word_dim:
            factors.append(self._look_up_word_vectors(words))
            projections.append(self.word_projection)
        return (
            ops.cast(ops.concatenate(vectors), self.compute_dtype),
            ops.stack(places, axis=-1),
            (
                ops.concatenate(factors, axis=-1),
                ops.cast(ops.concatenate(projections), self.compute_dtype),
            ),
        )

    def _index_half_steps(self, words: WordIds) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return `index_vectors` of windows `(B, T + 1)`: one vector a half-step."""
        rows, columns = self._find_cells(words)  # (B, T + 1) each
        places = ops.stack([self.word_table.num_rows + columns[:, :-1], rows[:, 1:]], axis=2)
        batch_size = ops.shape(words)[0]
        places = ops.reshape(places, (batch_size, -1, 1))
        table = ops.concatenate([self.row_embeddings, self.column_embeddings])
        table = ops.cast(table, self.compute_dtype)
        if not self.word_dim:
            return table, places, (None, None)
        vectors = self._look_up_word_vectors(words[:, :-1])  # (B, T, K)
        pairs = ops.stack([vectors, ops.zeros_like(vectors)], axis=2)  # rows are read without
        vectors = ops.reshape(pairs, (batch_size, -1, self.word_dim))
        return table, places, (vectors, ops.cast(self.word_projection, self.compute_dtype))

    @property
    def row_weights(self) -> list[keras.Variable]:
        """Weights with one entry for each row: they follow the words at a reallocation."""
        return [x for x in (self.row_embeddings, self.input_gate) if x is not None]

    @property
    def column_weights(self) -> list[keras.Variable]:
        """Weights with one entry for each column."""
        return [x for x in (self.column_embeddings, self.gated_embeddings) if x is not None]

    def embed_prefixes(self, words: WordIds) -> Tensor:
        """Return all half-steps of prefixes, with `combine="interleave"`, to predict next words.

        Unlike the half-steps of windows, they include the column of the last word.

        Args:
            words: `(B, N)`.

        Returns:
            `c_0 r_1 c_1 ... r_{N-1} c_{N-1}`, `(B, 2N - 1, D)`; with `mask_zero`, with their mask.

        Raises:
            ValueError: if the layer does not make half-steps, or the words have another shape.
        """
        if self.combine != "interleave":
            raise ValueError(
                'Half-steps of prefixes need combine="interleave". Received: '
                f"combine={self.combine!r}. Call the layer for one vector a word."
            )
        if not self.built:
            self.build()
        words = cast_word_ids(words)
        if len(words.shape) != 2:
            raise ValueError(
                f"Prefixes must be (B, N). Received: words.shape={tuple(words.shape)}. Give a "
                "single prefix as `words[None]`."
            )
        rows, columns = self.embed_components(words)  # (B, N, D) each
        half_steps = ops.concatenate(
            [interleave_components(rows, columns), columns[:, -1:]], axis=1
        )
        if self.mask_zero:
            set_mask(half_steps, _mask_half_steps(ops.not_equal(words, 0)))
        return half_steps

    def _look_up(self, vectors: Tensor, indices: Tensor) -> Tensor:
        return look_up(ops.cast(vectors, self.compute_dtype), indices)

    def compute_mask(self, words: WordIds, mask: Tensor = None) -> Tensor:
        if not self.mask_zero:
            return None
        is_word = ops.not_equal(words, 0)
        if self.combine != "interleave":
            return is_word
        return _mask_half_steps(is_word)[:, :-1]  # (B, 2T)

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        if self.combine == "interleave":
            if len(input_shape) != 2 or (input_shape[1] is not None and input_shape[1] < 2):
                raise ValueError(
                    'With combine="interleave" the words must be windows (B, T + 1) of at least '
                    f"two words. Received: shape {tuple(input_shape)}. Give longer windows, or "
                    'use combine="gate", "sum" or "concat" for one vector a word.'
                )
            batch_size, length = input_shape
            return batch_size, None if length is None else 2 * (length - 1), self.output_dim
        size = 2 * self.output_dim if self.combine == "concat" else self.output_dim
        return *input_shape, size

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "word_table": serialize_word_tables(self.word_tables),
            "output_dim": self.output_dim,
            "combine": self.combine,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": keras.constraints.serialize(self.embeddings_constraint),
            "mask_zero": self.mask_zero,
            **serialize_word_vectors(self),
            "gate_dim": self.gate_dim,
            "gate_pool": self.gate_pool,
            **serialize_frozen_parts(self),
            **serialize_shared_id(self),
        }

    @classmethod
    def from_config(cls, config: Config) -> TwoComponentEmbedding:
        # A softmax holds the embedding that its kernels are tied to, too.
        return load_shared(config, lambda config: load_frozen_parts(cls, config))

    def load_own_variables(self, store: Any) -> None:
        check_is_stored(self, store)
        super().load_own_variables(store)


def _mask_half_steps(is_word: Tensor) -> Tensor:
    """Return which of `c_0 r_1 c_1 ... r_{N-1} c_{N-1}` are read, `(B, N) -> (B, 2N - 1)`."""
    # The row of a text's first word is not read, because no earlier column predicts it.
    has_begun = ops.cumsum(ops.cast(is_word, "int32"), axis=1) > 0
    # The half-steps belong to the words 0 1 1 2 2 ..., and follow those of the words 0 0 1 1 2 ...
    is_word, has_begun = (ops.repeat(x, 2, axis=1) for x in (is_word, has_begun))
    return ops.logical_and(is_word[:, 1:], has_begun[:, :-1])
