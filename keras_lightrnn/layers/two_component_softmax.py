"""Softmax over a large vocabulary in two small steps: the row, then the column in that row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_counts, check_k
from keras_lightrnn._internal.keras_internals import get_mask
from keras_lightrnn.layers.initializers import clone_initializer
from keras_lightrnn.layers.observed_layer import ObservedLayer
from keras_lightrnn.layers.word_vectors import count_word_vectors
from keras_lightrnn.ops import (
    WordTerms,
    cast_word_ids,
    compute_bias_table,
    compute_fused_log_probs,
    compute_row_offsets,
    compute_word_log_probs,
    look_up_word_vectors,
    mark_invalid_ids,
    split_half_steps,
)
from keras_lightrnn.search.layer_search import LayerSearch
from keras_lightrnn.table.linked_variable import DerivedVariable, LinkedVariable
from keras_lightrnn.table.word_table import get_word_table, serialize_word_table

_WORD_BIAS = (None, "counts", "trainable")


@keras.saving.register_keras_serializable("keras_lightrnn")
class TwoComponentSoftmax(ObservedLayer):
    """Predicts the next word by its row, then by its column given the row.

        log P(w) = log softmax(h^c · row_kernel^T + row_bias)[row(w)]
                 + log softmax(h^r · column_kernel^T + column_bias)[column(w)]

    Two softmaxes of `R` and `C` classes replace one of `V`. Empty cells and empty rows have no
    probability. Logits and probabilities are float32 under every dtype policy.

    The word bias gives back what a full softmax has and two component softmaxes lack, one
    scalar a word. With `b[w]` the log of the word's share of the corpus, `b` is added to the
    column logits of the word's cell, and the log of its row's total share to the row logits:
    with zero kernels and biases the layer predicts the unigram distribution exactly, wherever
    the words lie, and a word that moves takes its bias along.

    With `word_dim=K` words have a small vector of their own besides: `word_kernel[w] ·
    (word_projection^T · h^r)` is added to the column logit of word `w`. The vectors start at
    zero. They cost `V * K` numbers, or fewer with `num_word_vectors`, and two passes over those
    of one row a word in training.

    Args:
        word_table: `WordTable` to share with the embedding, or what makes one: an
            `Allocation` or an integer vocabulary size.
        use_bias: Boolean, whether rows and columns have a bias.
        word_bias: `None` (as published), `"counts"` (fixed, see `assign_word_counts`) or
            `"trainable"` (the same start, then trained). All zero until counts are assigned,
            which is the uniform distribution.
        kernel_initializer, bias_initializer: Initializers of both kernels and both biases, the
            first one also of the word projection.
        kernel_regularizer, bias_regularizer: Regularizers of both, the first one also of the word
            kernel.
        kernel_constraint, bias_constraint: Constraints of both, likewise.
        word_dim: Integer `K`, the size of the small vector of each word; 0 for none, as
            published.
        num_word_vectors: Integer, how many words have one: the words `0 .. num_word_vectors - 1`,
            which are the most frequent ones where ids go by falling frequency. `None` for all.
        **kwargs: `name`, `dtype`, `trainable` as in every Keras layer.

    Call arguments:
        half_steps: Hidden half-steps `(B, 2T, H)`: those at even places, after the columns of
            the words `0..T-1`, predict rows; those at odd places, after the rows of the words
            `1..T`, predict columns. `TwoComponentEmbedding` orders its output so.
        targets: Word ids `(B, T)` to predict, the words `1..T` of the window.
        training: Boolean, whether this is a training step.
        fused: Boolean, whether `ops.compute_fused_log_probs` does the work, which XLA compiles
            for each shape, or operations that every runtime has. By default, in training.

    Returns:
        Log-probabilities of the targets in nats, `(B, T)` float32. NaN for an id outside
        `[0, V)` where the backend cannot raise (compiled code).

    Raises:
        ValueError: for an unknown `word_bias`, more word vectors than words, or half-steps and
            targets that disagree.

    Example:

    >>> layer = TwoComponentSoftmax(12, word_bias="counts", kernel_initializer="zeros")
    >>> half_steps, targets = np.zeros((1, 6, 8)), np.array([[3, 7, 1]])
    >>> log_probs = layer(half_steps, targets)
    >>> [round(float(np.exp(x)), 4) for x in np.asarray(log_probs)[0]]
    [0.0833, 0.0833, 0.0833]
    >>> layer.assign_word_counts(np.arange(12))
    >>> [round(float(np.exp(x)), 4) for x in np.asarray(layer(half_steps, targets))[0]]
    [0.0451, 0.1053, 0.015]

    Reference:
        Li et al., "LightRNN", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893).
    """

    def __init__(
        self,
        word_table: Any,
        use_bias: bool = True,
        word_bias: str | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        word_dim: int = 0,
        num_word_vectors: int | None = None,
        **kwargs: Any,
    ) -> None:
        if word_bias not in _WORD_BIAS:
            raise ValueError(
                f"`word_bias` must be one of {_WORD_BIAS}. Received: word_bias={word_bias!r}."
            )
        super().__init__(**kwargs)
        self.word_table = get_word_table(word_table)
        self.use_bias = use_bias
        self.word_bias = word_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self._num_vectors = count_word_vectors(
            word_dim, num_word_vectors, self.word_table.vocabulary_size
        )
        self.word_dim = word_dim
        self.num_word_vectors = num_word_vectors
        self.supports_masking = True
        self.autocast = False  # word ids must never be rounded to a float type
        table = self.word_table
        size = (table.vocabulary_size,)
        # Made at once, so that counts can be assigned before the first call.
        self._word_bias: Any = None
        if word_bias == "trainable":
            self._word_bias = self.add_weight(
                name="word_bias", shape=size, dtype="float32", initializer="zeros", autocast=False
            )
        elif word_bias == "counts":
            with keras.name_scope(self.name):
                self._word_bias = LinkedVariable(
                    keras.initializers.Zeros(), size, "float32", "word_bias"
                )
        self._has_bias_table = (
            word_bias is not None or table.vocabulary_size < table.num_rows * table.num_columns
        )
        self._row_offsets: Any = None
        if self._has_bias_table and word_bias != "trainable":
            sources = [table.words] if word_bias is None else [table.words, self._word_bias]
            with keras.name_scope(self.name):
                self._row_offsets = DerivedVariable(
                    lambda: compute_row_offsets(self._word_bias, table.words),
                    sources,
                    (table.num_rows,),
                    "float32",
                    "row_offsets",
                )
            self._untrack_variable(self._row_offsets)

    @property
    def variables(self) -> list[Any]:
        return [*super().variables, *([] if self._row_offsets is None else [self._row_offsets])]

    def build(self, half_steps_shape: Any, targets_shape: Any = None) -> None:
        units = half_steps_shape[-1]
        if units is None:
            raise ValueError(
                "The last axis of the half-steps must be known. Received: "
                f"half_steps.shape={tuple(half_steps_shape)}."
            )
        table = self.word_table
        self.row_kernel, self.row_bias = self._add_softmax("row", 0, table.num_rows, units)
        self.column_kernel, self.column_bias = self._add_softmax(
            "column", 1, table.num_columns, units
        )
        self.word_kernel = self.word_projection = None
        if self.word_dim:
            self.word_kernel = self.add_weight(
                name="word_kernel",
                shape=(self._num_vectors, self.word_dim),
                initializer="zeros",  # as long as nothing is known of a word it adds nothing
                autocast=False,  # cast as they are looked up, and not all
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
            self.word_projection = self.add_weight(
                name="word_projection",
                shape=(units, self.word_dim),
                initializer=clone_initializer(self.kernel_initializer, 2),
            )
        self.built = True

    def _add_softmax(self, name: str, number: int, size: int, units: int) -> tuple[Any, Any]:
        """Return the kernel, `(size, H)`, and the bias, if there is one, of one of the two."""
        kernel = self.add_weight(
            name=f"{name}_kernel",
            shape=(size, units),
            initializer=clone_initializer(self.kernel_initializer, number),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if not self.use_bias:
            return kernel, None
        bias = self.add_weight(
            name=f"{name}_bias",
            shape=(size,),
            initializer=clone_initializer(self.bias_initializer, number),
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
            autocast=False,  # logits are float32, and so is what is added to them
        )
        return kernel, bias

    @property
    def row_weights(self) -> list[Any]:
        """Weights with one entry for each row: they follow the words at a reallocation."""
        return [weight for weight in (self.row_kernel, self.row_bias) if weight is not None]

    @property
    def column_weights(self) -> list[Any]:
        """Weights with one entry for each column."""
        return [x for x in (self.column_kernel, self.column_bias) if x is not None]

    def assign_word_counts(self, counts: Any) -> None:
        """Set the word bias to the log share of each word in the corpus.

        Args:
            counts: `(V,)` occurrences of each word, not negative. A word that never occurs
                counts as half an occurrence, so that it keeps some probability.

        Raises:
            ValueError: if the layer has no word bias, or the counts have another shape, are
                negative, not finite, or all zero.
        """
        if self._word_bias is None:
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
        self._word_bias.assign(np.log(smoothed / smoothed.sum()).astype(np.float32))

    @property
    def word_bias_values(self) -> Any:
        """The `(V,)` weight of log shares; `None` without a word bias."""
        return self._word_bias

    def call(
        self,
        half_steps: Any,
        targets: Any,
        training: bool | None = None,
        fused: bool | None = None,
    ) -> Any:
        targets = cast_word_ids(targets)
        self.compute_output_shape(half_steps.shape, targets.shape)  # checks them
        column_half_steps, row_half_steps = split_half_steps(half_steps)  # (B, T, H) each
        mask = self.compute_mask(half_steps, get_mask(half_steps))
        # Observers see the half-steps, the targets, and the mask, (B, T) or `None`.
        self.show(column_half_steps, row_half_steps, targets, mask, training=training)
        cells = self.word_table(targets)  # (B, T)
        fused = training if fused is None else fused
        if fused and keras.backend.backend() in ("tensorflow", "jax"):
            log_probs = self._compute_fused_log_probs(half_steps, row_half_steps, cells)
        else:
            rows = cells // self.word_table.num_columns
            log_probs = compute_word_log_probs(
                self.compute_row_logits(column_half_steps),
                self.compute_column_logits(row_half_steps, rows),
                cells,
            )
        return log_probs + mark_invalid_ids(targets, self.word_table.vocabulary_size)

    def _compute_fused_log_probs(self, half_steps: Any, row_half_steps: Any, cells: Any) -> Any:
        row_bias, column_bias = (
            ops.zeros((kernel.shape[0],), "float32") if bias is None else ops.cast(bias, "float32")
            for kernel, bias in (
                (self.row_kernel, self.row_bias),
                (self.column_kernel, self.column_bias),
            )
        )
        terms = None
        if self._has_bias_table or self.word_dim:
            offsets = self.compute_row_offsets()
            terms = WordTerms(
                ops.convert_to_tensor(self.word_table.words),
                ops.convert_to_tensor(self.word_table.cells),
                None if offsets is None else ops.stop_gradient(offsets),
                None if self._word_bias is None else ops.cast(self._word_bias, "float32"),
                self._compute_queries(row_half_steps) if self.word_dim else None,
                ops.cast(self.word_kernel, "float32") if self.word_dim else None,
            )
        return compute_fused_log_probs(
            half_steps,
            cells,
            ops.cast(self.row_kernel, self.compute_dtype),
            row_bias,
            ops.cast(self.column_kernel, self.compute_dtype),
            column_bias,
            terms,
            is_bias_fixed=self.word_bias != "trainable",
        )

    def compute_row_offsets(self) -> Any:
        """Return what the words of each row add to its logit now, `(R,)`; `None` if nothing."""
        if self._row_offsets is not None:
            return ops.convert_to_tensor(self._row_offsets)
        if self.word_bias == "trainable":
            return compute_row_offsets(
                ops.convert_to_tensor(self._word_bias), ops.convert_to_tensor(self.word_table.words)
            )
        return None

    def compute_row_logits(self, column_half_steps: Any, row_offsets: Any = None) -> Any:
        """Return the logits of all rows after column half-steps, `(..., H) -> (..., R)`.

        Args:
            column_half_steps: `(..., H)`.
            row_offsets: What `compute_row_offsets` returned, if that is known.
        """
        logits = self._project(column_half_steps, self.row_kernel, self.row_bias)
        offsets = self.compute_row_offsets() if row_offsets is None else row_offsets
        return logits if offsets is None else logits + offsets

    def compute_column_logits(self, row_half_steps: Any, rows: Any) -> Any:
        """Return the logits of all columns given rows, `(..., H), (...) -> (..., C)`.

        Args:
            row_half_steps: `(..., H)`.
            rows: `(...)` int32, the row that each half-step has read.
        """
        logits = self._project(row_half_steps, self.column_kernel, self.column_bias)
        if self._has_bias_table or self.word_dim:
            words = ops.take(self.word_table.words, rows, axis=0)  # (..., C)
        if self._has_bias_table:
            logits += compute_bias_table(self._word_bias, words)
        if self.word_dim:
            kernel = ops.convert_to_tensor(self.word_kernel)
            # Rounded as the other kernels are.
            vectors = ops.cast(look_up_word_vectors(kernel, words), self.compute_dtype)
            queries = self._compute_queries(row_half_steps)  # (..., K)
            logits += ops.sum(ops.cast(vectors, "float32") * queries[..., None, :], axis=-1)
        return logits

    def _compute_queries(self, row_half_steps: Any) -> Any:
        """Return what is multiplied by the vectors of words, `(..., H) -> (..., K)` float32."""
        return self._project(row_half_steps, ops.transpose(self.word_projection), None)

    def compute_word_distribution(self, column_half_steps: Any, row_half_steps: Any) -> Any:
        """Return the log-probabilities of all words from a state.

        Args:
            column_half_steps: `(..., H)`, after the column of the last word.
            row_half_steps: `(..., R, H)`, after each row that might follow.

        Returns:
            `(..., V)` float32; its exponentials sum to 1.
        """
        rows = ops.arange(self.word_table.num_rows)
        row_log_probs = ops.log_softmax(self.compute_row_logits(column_half_steps))
        column_log_probs = ops.log_softmax(self.compute_column_logits(row_half_steps, rows))
        joint = ops.expand_dims(row_log_probs, -1) + column_log_probs  # (..., R, C)
        num_cells = self.word_table.num_rows * self.word_table.num_columns
        joint = ops.reshape(joint, (*ops.shape(joint)[:-2], num_cells))
        return ops.take(joint, ops.convert_to_tensor(self.word_table.cells), axis=-1)

    def next_words(
        self,
        column_half_steps: Any,
        read_rows: Callable[[np.ndarray, np.ndarray], Any],
        k: int = 10,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` likeliest words to follow some texts, exactly, by any network.

        Rows are taken in falling order of probability, and read by the network, until no further
        row can hold a better word. `LightRNNModel.next_words` does the same with its recurrence.

        Args:
            column_half_steps: `(B, H)`, after the column of each text's last word: see
                `TwoComponentEmbedding.embed_prefixes`.
            read_rows: Function of two int32 arrays `(n,)`, texts and rows: returns `(n, H)`, the
                half-steps after these rows have been read after these texts. The vectors of rows
                are `TwoComponentEmbedding.row_embeddings`.
            k: Integer in `[1, V]`.

        Returns:
            Word ids, int32, and log-probabilities in nats, float64, `(B, k)` each, best first; of
            equal words the lesser ids.

        Raises:
            ValueError: if half-steps have another shape or are NaN, or `k` is none.

        Example:

        >>> from keras_lightrnn.layers import TwoComponentEmbedding
        >>> embedding = TwoComponentEmbedding(30, 4)
        >>> softmax = TwoComponentSoftmax(embedding.word_table)
        >>> network = keras.layers.GRU(5, return_sequences=True)  # any causal layers
        >>> log_probs = softmax(network(embedding(np.array([[3, 1, 4]]))), np.array([[1, 4]]))
        >>> prefixes = embedding.embed_prefixes(np.array([[3, 1, 4], [1, 5, 9]]))
        >>> def read_rows(texts, rows):
        ...     vectors = ops.take(embedding.row_embeddings, rows, axis=0)
        ...     longer = [ops.take(prefixes, texts, axis=0), vectors[:, None]]
        ...     return network(ops.concatenate(longer, axis=1))[:, -1]
        >>> words, log_probs = softmax.next_words(network(prefixes)[:, -1], read_rows, k=3)
        >>> words.shape, bool((log_probs[:, 0] >= log_probs[:, 1]).all())
        ((2, 3), True)
        """
        check_k("k", k, self.word_table.vocabulary_size)
        return LayerSearch(self, column_half_steps, read_rows).best_words(k)

    def _project(self, half_steps: Any, kernel: Any, bias: Any) -> Any:
        half_steps = ops.cast(half_steps, self.compute_dtype)
        kernel = ops.cast(kernel, self.compute_dtype)
        logits = ops.cast(ops.matmul(half_steps, ops.transpose(kernel)), "float32")
        return logits if bias is None else logits + ops.cast(bias, "float32")

    def compute_mask(self, half_steps: Any, mask: Any = None) -> Any:
        if mask is None:
            return None
        column_mask, row_mask = split_half_steps(mask)
        return ops.logical_and(column_mask, row_mask)

    def compute_output_shape(self, half_steps_shape: Any, targets_shape: Any) -> Any:
        length = half_steps_shape[1]
        if len(half_steps_shape) != 3 or len(targets_shape) != 2:
            expected = False
        else:
            expected = None in (length, targets_shape[1]) or length == 2 * targets_shape[1]
        if not expected:
            raise ValueError(
                "Targets (B, T) need half-steps (B, 2T, H). Received: "
                f"half_steps.shape={tuple(half_steps_shape)}, "
                f"targets.shape={tuple(targets_shape)}. "
                "The targets of a window (B, T + 1) are its words from the second on."
            )
        return tuple(targets_shape)

    def compute_output_spec(
        self,
        half_steps: Any,
        targets: Any,
        training: bool | None = None,
        fused: bool | None = None,
    ) -> keras.KerasTensor:
        shape = self.compute_output_shape(half_steps.shape, targets.shape)
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        config = {
            **super().get_config(),
            "word_table": serialize_word_table(self.word_table),
            "use_bias": self.use_bias,
            "word_bias": self.word_bias,
        }
        for kind, module in (
            ("initializer", keras.initializers),
            ("regularizer", keras.regularizers),
            ("constraint", keras.constraints),
        ):
            for weight in ("kernel", "bias"):
                name = f"{weight}_{kind}"
                config[name] = module.serialize(getattr(self, name))
        config |= {"word_dim": self.word_dim, "num_word_vectors": self.num_word_vectors}
        return config
