"""Softmax over a large vocabulary in two small steps: the row, then the column in that row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_k, check_size, shapes_agree
from keras_lightrnn._internal.frozen_parts import (
    HasParts,
    load_frozen_parts,
    serialize_frozen_parts,
)
from keras_lightrnn._internal.keras_internals import (
    get_mask,
    set_mask,
    set_untracked,
    track_for_checkpoints,
)
from keras_lightrnn._internal.shared_objects import (
    load_shared,
    serialize_shared,
    serialize_shared_id,
)
from keras_lightrnn._internal.typing import (
    Config,
    Constraint,
    Dtype,
    Initializer,
    Regularizer,
    Shape,
    Tensor,
    WordIds,
)
from keras_lightrnn.layers.initializers import clone_initializer
from keras_lightrnn.layers.observed_layer import ObservedLayer
from keras_lightrnn.layers.row_reader import GatedRowReader, get_row_reader, serialize_row_reader
from keras_lightrnn.layers.two_component_embedding import TwoComponentEmbedding
from keras_lightrnn.layers.word_bias import WordBias
from keras_lightrnn.layers.word_vectors import serialize_word_vectors, set_word_vectors
from keras_lightrnn.ops import (
    LogitTerm,
    VectorTerm,
    cast_word_ids,
    compute_fused_log_probs,
    compute_word_log_probs,
    mark_invalid_ids,
    split_half_steps,
)
from keras_lightrnn.ops.look_up import look_up
from keras_lightrnn.ops.products import project
from keras_lightrnn.search.excluded import check_excluded, check_excluded_shape
from keras_lightrnn.search.graph_search import find_word_ranks
from keras_lightrnn.search.layer_search import (
    HalfStepSearch,
    check_built,
    check_state_size,
    search_states,
)
from keras_lightrnn.table.word_table import WordTable, get_word_tables, serialize_word_tables


@keras.saving.register_keras_serializable("keras_lightrnn")
class TwoComponentSoftmax(HasParts, WordBias, ObservedLayer):
    """Predicts a word by its row, then by its column given the row.

    Two softmaxes of `R` and `C` classes replace one of `V`. Empty cells and empty rows have the
    probability 0. Logits and probabilities are float32 under every dtype policy.

    The layer is a drop-in for `Dense(V, "softmax")`. It takes the state `s` of any network, one
    for each word to predict, and a row reader makes the column depend on the row:

        q^k          = tanh(s · query_kernel^k + query_bias^k)                      k = 1 .. M
        P_k(row)     = softmax(q^k · row_kernel^T + row_bias)
        c^k          = q^k * (1 + row_gate[row]) + row_shift[row]         the row reader
        P_k(column)  = softmax(c^k · column_kernel^T + column_bias)
        P(w)         = sum over k of pi_k · P_k(row(w)) · P_k(column(w))
        pi           = softmax(s · component_kernel + component_bias)

    With several tables, each has its own components, kernels and row reader, and all of them form
    one mixture: words that share a row in one table are apart in another.

    With `row_reader=None`, the layer takes half-steps, as published: the network itself reads the
    row, and the column is predicted from the state after it,

        P(w) = softmax(h^c · row_kernel^T + row_bias)[row(w)]
             · softmax(h^r · column_kernel^T + column_bias)[column(w)]

    The word bias adds one scalar for each word. With `b[w]` the log of the word's share of the
    corpus, `b` is added to the column logits of the word's cell, and the log of its row's total
    share to the row logits. With zero kernels and biases the layer predicts the unigram
    distribution exactly, for any allocation. A word that moves takes its bias along.

    With `word_dim=K`, each word also has a small vector: `word_kernel[w] · (word_projection^T · c)`
    is added to the column logit of word `w`, where `c` is the column query `c^k` or `h^r`. The
    vectors start at zero. They cost `V * K` numbers, fewer with `num_word_vectors`, and nothing if
    `word_vectors` are those of the embedding.

    With `tied_embedding`, rows and columns have the same vectors at input and output, like tied
    embeddings of a full vocabulary: `row_kernel` is the embedding's `row_embeddings`, and
    `column_kernel` its `column_embeddings`.

    Args:
        word_table: `WordTable` to share with the embedding, or an `Allocation` or an integer
            vocabulary size to make one. Or a list of these for several tables.
        use_bias: Boolean, whether rows and columns have a bias.
        word_bias: `None` (as published), `"counts"` (fixed, see `assign_word_counts`) or
            `"trainable"` (the same values at first, then trained). Until counts are assigned the
            bias is zero, which gives the uniform distribution.
        kernel_initializer, bias_initializer: Initializers of the kernels and of the biases. With a
            `tied_embedding`, those of rows and columns are made by the embedding.
        kernel_regularizer, bias_regularizer: Regularizers, likewise.
        kernel_constraint, bias_constraint: Constraints, likewise.
        word_dim: Integer `K`, the size of the small vector of each word; 0 for none, as
            published.
        num_word_vectors: Integer, the number of words with a vector: the words
            `0 .. num_word_vectors - 1`, which are the most frequent if ids are in descending order
            of frequency. `None` for all.
        row_reader: `"gated"` (default) for a `GatedRowReader`; a Keras layer with its call
            arguments; or `None` for half-steps, as published.
        num_components: Integer `M`, the number of components of the mixture for each table. A
            mixture needs a row reader.
        mask_zero: Boolean, whether word 0 is padding. Then targets 0 are masked in addition to the
            mask of the states, and searches never return word 0.
        word_vectors: `WordVectors` to share with the embedding, instead of `word_dim`. Defaults to
            `None`.
        tied_embedding: `TwoComponentEmbedding` of the same word tables, whose vectors are the
            kernels of rows and columns. Its `output_dim` must be `H`. Its initializer, regularizer
            and constraint hold for these kernels; those of the softmax hold for its other weights.
            The embedding is a part of the softmax: to set `trainable` of the softmax sets that of
            the embedding. `copy.deepcopy` of a model keeps the tie; `keras.models.clone_model` and
            `from_config`, which copy layer by layer, do not. Defaults to `None` for kernels of the
            softmax.
        **kwargs: `name`, `dtype`, `trainable` as in every Keras layer.

    Call arguments:
        states: `(B, T, H)` or `(B, H)`, each before the word that it predicts. With
            `row_reader=None`, half-steps `(B, 2T, H)`: those with even indices, after the
            columns of the words `0..T-1`, predict rows; those with odd indices, after the rows of
            the words `1..T`, predict columns. `TwoComponentEmbedding` with
            `combine="interleave"` has this order.
        targets: Word ids to predict, `(B, T)` or `(B,)`.
        training: Boolean, whether this is a training step.
        fused: Boolean, whether to use `ops.compute_fused_log_probs`, which XLA compiles for each
            shape, or operations that every runtime supports. Defaults to `training`. TensorFlow
            keeps compiled programs until the process ends, about 20 MB for each model and shape: a
            process that makes very many models needs less memory with `fused=False`.

    Returns:
        Log-probabilities of the targets in nats, float32, of the shape of the targets. NaN for an
        id outside `[0, V)` if the backend cannot raise an error (compiled code).

    Raises:
        ValueError: for an unknown `word_bias` or `row_reader`, `num_components` below 1, more
            word vectors than words, a `tied_embedding` of other word tables or of another size
            than the states, or states and targets that disagree.

    Example:

    >>> layer = TwoComponentSoftmax(12, word_bias="counts")
    >>> layer.assign_word_counts(np.arange(12))
    >>> states, targets = np.ones((1, 3, 8), "float32"), np.array([[3, 7, 1]])
    >>> tuple(layer(states, targets).shape)
    (1, 3)
    >>> words, log_probs = layer.next_words(states[:, -1], k=5)
    >>> words.shape, bool((np.diff(log_probs) <= 0).all())
    ((1, 5), True)

    As published, on half-steps:

    >>> layer = TwoComponentSoftmax(
    ...     12, row_reader=None, word_bias="counts", kernel_initializer="zeros"
    ... )
    >>> half_steps = np.zeros((1, 6, 8))
    >>> [round(float(np.exp(x)), 4) for x in np.asarray(layer(half_steps, targets))[0]]
    [0.0833, 0.0833, 0.0833]
    >>> layer.assign_word_counts(np.arange(12))
    >>> [round(float(np.exp(x)), 4) for x in np.asarray(layer(half_steps, targets))[0]]
    [0.0451, 0.1053, 0.015]

    With the vectors of an embedding:

    >>> from keras_lightrnn.layers import TwoComponentEmbedding
    >>> embedding = TwoComponentEmbedding(12, 8, embeddings_initializer="glorot_uniform")
    >>> layer = TwoComponentSoftmax(embedding.word_tables, tied_embedding=embedding)
    >>> tuple(layer(embedding(targets), targets).shape)
    (1, 3)
    >>> layer.row_kernel is embedding.row_embeddings
    True

    Reference:
        Half-steps: Li et al., "LightRNN", NIPS 2016,
        [arXiv:1610.09893](https://arxiv.org/abs/1610.09893). Tied embeddings: Press and Wolf,
        "Using the Output Embedding to Improve Language Models", EACL 2017,
        [arXiv:1608.05859](https://arxiv.org/abs/1608.05859). The row reader, the mixture, the
        word bias and the word vectors are this package's extensions.
    """

    def __init__(
        self,
        word_table: Any,
        use_bias: bool = True,
        word_bias: str | None = None,
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        word_dim: int = 0,
        num_word_vectors: int | None = None,
        row_reader: Any = "gated",
        num_components: int = 1,
        mask_zero: bool = False,
        word_vectors: Any = None,
        tied_embedding: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        word_tables = get_word_tables(word_table)
        self.word_table = word_tables[0]
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self._num_vectors = set_word_vectors(self, word_vectors, word_dim, num_word_vectors)
        self.row_reader = get_row_reader(
            row_reader, self.word_table.num_rows, self.dtype_policy, self.trainable
        )
        self.num_components = check_size("num_components", num_components)
        if self.row_reader is None and self.num_components * len(word_tables) > 1:
            raise ValueError(
                "A mixture needs a row reader, which lets each component read the row. Received: "
                f"num_components={num_components}, {len(word_tables)} word table(s), "
                'row_reader=None. Give row_reader="gated".'
            )
        if mask_zero and self.word_table.vocabulary_size == 1:
            raise ValueError(
                "With `mask_zero`, word 0 is padding, and there must be another word to predict. "
                "Received: mask_zero=True, a vocabulary of 1 word."
            )
        self.mask_zero = mask_zero
        self.supports_masking = True
        self.autocast = False  # word ids must never be rounded to a float type
        self._init_word_bias(word_bias)
        self.tied_embedding = _get_tied_embedding(tied_embedding, word_tables)
        self.further_tables = [
            _FurtherTable(self, table, index) for index, table in enumerate(word_tables[1:], 1)
        ]
        track_for_checkpoints(self, "further_tables")

    def list_tables(self) -> list[TwoComponentSoftmax]:
        """Return the softmax of each table: this layer, then those of the further tables."""
        return [self, *self.further_tables]

    def _get_parts(self) -> dict[str, keras.layers.Layer]:
        parts = {
            "row_reader": self.row_reader,
            **{table.name: table for table in self.further_tables},
            "tied_embedding": self.tied_embedding,
            "word_vectors": self.word_vectors,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def word_tables(self) -> list[WordTable]:
        """The table of this layer, then the further tables."""
        return [layer.word_table for layer in self.list_tables()]

    def build(self, states_shape: Shape, targets_shape: Shape = None) -> None:
        units = states_shape[-1]
        if units is None:
            raise ValueError(
                "The last axis of the states must be known. Received: "
                f"states.shape={tuple(states_shape)}."
            )
        table = self.word_table
        self._build_tied_embedding(units)
        self._add_softmax("row", 0, table.num_rows, units)
        self._add_softmax("column", 1, table.num_columns, units)
        self._word_kernel = self.word_projection = None
        if self.word_vectors is not None and not self.word_vectors.built:
            self.word_vectors.build()
        elif self.word_dim and self._get_owner() is None and self.word_vectors is None:
            self._word_kernel = self.add_weight(
                name="word_kernel",
                shape=(self._num_vectors, self.word_dim),
                initializer="zeros",  # so that an untrained vector changes nothing
                autocast=False,  # cast as they are looked up, and not all
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
        if self.word_dim:
            self.word_projection = self._add_kernel("word_projection", 2, (units, self.word_dim))
        self.query_kernel = self.query_bias = None
        self.component_kernel = self.component_bias = None
        if self.row_reader is not None:
            self.query_kernel = self._add_query_kernel(units)
            self.query_bias = self._add_bias("query_bias", 3, self.num_components * units)
            if not self.row_reader.built:  # by a call, which every layer supports
                queries = keras.KerasTensor((None, self.num_components, units), self.compute_dtype)
                self.row_reader(queries, keras.KerasTensor((None,), "int32"))
        num_all = self.num_components * len(self.list_tables())
        if num_all > 1 and self._get_owner() is None:
            self.component_kernel = self._add_kernel("component_kernel", 3, (units, num_all))
            self.component_bias = self._add_bias("component_bias", 2, num_all)
        for table in self.further_tables:
            if not table.built:  # type: ignore[has-type]
                table.build(states_shape, targets_shape)
        self.built = True

    @property
    def word_kernel(self) -> keras.Variable | None:
        """The vectors of words, `(N, K)`; `None` for none, and for a further table."""
        return self._word_kernel if self.word_vectors is None else self.word_vectors.vectors

    def build_from_config(self, config: Config) -> None:
        shapes = config.get("shapes_dict", {})
        if "half_steps_shape" in shapes:  # a file of version 0.1
            shapes = {
                "states_shape" if k == "half_steps_shape" else k: v for k, v in shapes.items()
            }
        super().build_from_config({**config, "shapes_dict": shapes} if shapes else config)

    def _build_tied_embedding(self, units: int) -> None:
        """Build the embedding whose vectors are the kernels, if there is one."""
        embedding = self.tied_embedding
        if embedding is None:
            return
        if embedding.output_dim != units:
            raise ValueError(
                "A `tied_embedding` needs states of the size of its vectors. Received: "
                f"output_dim={embedding.output_dim}, states of size {units}. Give the last layer "
                f"before the softmax {embedding.output_dim} units, or project its states."
            )
        if not embedding.built:
            embedding.build((None, None))

    def _add_softmax(self, name: str, number: int, size: int, units: int) -> None:
        """Set the kernel, `(size, H)`, and the bias or `None`, of rows or of columns."""
        kernel, bias = f"{name}_kernel", f"{name}_bias"
        if self.tied_embedding is None:
            setattr(self, kernel, self._add_kernel(kernel, number, (size, units)))
        else:  # Keras saves and counts it as a weight of the embedding
            set_untracked(self, kernel, getattr(self.tied_embedding, f"{name}_embeddings"))
        setattr(self, bias, self._add_bias(bias, number, size) if self.use_bias else None)

    def _add_kernel(self, name: str, number: int, shape: tuple[int, int]) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=clone_initializer(self.kernel_initializer, number),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def _add_query_kernel(self, units: int) -> keras.Variable:
        """Return the kernel of all queries, `(H, M H)`: each component starts as if alone."""

        def initialize(shape: Shape, dtype: Dtype = None) -> Tensor:
            kernels = [
                clone_initializer(self.kernel_initializer, 4 + k)((units, units), dtype=dtype)
                for k in range(self.num_components)
            ]
            return ops.concatenate(kernels, axis=1)

        return self.add_weight(
            name="query_kernel",
            shape=(units, self.num_components * units),
            initializer=initialize,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def _add_bias(self, name: str, number: int, size: int) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(size,),
            initializer=clone_initializer(self.bias_initializer, number),
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
            autocast=False,  # logits are float32, and so is what is added to them
        )

    @property
    def row_weights(self) -> list[keras.Variable]:
        """Weights with one entry for each row: they follow the words at a reallocation."""
        of_reader = getattr(self.row_reader, "row_weights", [])
        weights = [*self._list_own(self.row_kernel), self.row_bias, *of_reader]
        return [weight for weight in weights if weight is not None]

    @property
    def column_weights(self) -> list[keras.Variable]:
        """Weights with one entry for each column."""
        weights = [*self._list_own(self.column_kernel), self.column_bias]
        return [weight for weight in weights if weight is not None]

    def _list_own(self, kernel: keras.Variable) -> list[keras.Variable]:
        """Return a kernel in a list, or none if it is listed by the tied embedding."""
        return [kernel] if self.tied_embedding is None else []

    def call(
        self,
        states: Tensor,
        targets: WordIds,
        training: bool | None = None,
        fused: bool | None = None,
    ) -> Tensor:
        targets = cast_word_ids(targets)
        self._check_shapes(states.shape, targets.shape)
        fused = training if fused is None else fused
        known = targets
        if keras.backend.backend() == "jax":
            # An id outside `[0, V)` would make all gradients NaN, even where its weight is 0.
            known = ops.clip(targets, 0, self.word_table.vocabulary_size - 1)
        parts = [table.predict(states, known, bool(fused)) for table in self.list_tables()]
        log_probs = [part[0] for part in parts]  # (B, T, M) each
        joint = log_probs[0] if len(parts) == 1 else ops.concatenate(log_probs, axis=-1)
        if self.component_kernel is None:
            log_probs = ops.squeeze(joint, -1)
        else:
            joint = self.compute_component_log_probs(states) + joint  # (B, T, tables M)
            log_probs = ops.logsumexp(joint, axis=-1)
        mask = self._mask_targets(states, targets)
        if self.observers:
            mixed = None if self.component_kernel is None else (joint, log_probs)
            for index, (_, *queries) in enumerate(parts):
                self._show_states(index, queries, targets, mixed, mask, training)
        # Not in place: PyTorch differentiates by the result of `logsumexp`.
        log_probs = log_probs + mark_invalid_ids(targets, self.word_table.vocabulary_size)
        if mask is not None:
            set_mask(log_probs, mask)
        return log_probs

    def predict(
        self, states: Tensor, targets: WordIds, fused: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-probabilities of targets for each component of this table, and queries.

        Args:
            states: As in `call`.
            targets: As in `call`.
            fused: Boolean, as in `call`.

        Returns:
            Log-probabilities `(..., M)`; row queries and column queries `(..., M, H)`.
        """
        cells = self.word_table(targets)  # (B, T)
        rows = cells // self.word_table.num_columns
        if self.row_reader is None:
            row_queries, column_queries = (
                ops.expand_dims(x, -2) for x in split_half_steps(states)
            )  # (B, T, 1, H) each
        else:
            row_queries = self.compute_queries(states)  # (B, T, M, H)
            column_queries = self.read_rows(row_queries, rows)
        if fused and keras.backend.backend() in ("tensorflow", "jax"):
            log_probs = self._compute_fused_log_probs(row_queries, column_queries, cells)
        else:
            column_logits = self.compute_column_logits(column_queries, rows)
            log_probs = compute_word_log_probs(
                self.compute_row_logits(row_queries), column_logits, ops.expand_dims(cells, -1)
            )
        return log_probs, row_queries, column_queries

    def _show_states(
        self,
        table: int,
        queries: list[Tensor],
        targets: WordIds,
        log_probs: tuple[Tensor, Tensor] | None,
        mask: Tensor,
        training: bool | None,
    ) -> None:
        """Show the observers of a table the states that predict the rows and columns of targets.

        These are row states and column states `(B, T, H)`, targets `(B, T)`, their mask `(B, T)`
        or `None`, and the share of the table in each target, `(B, T)`, or `None` for one table. In
        a mixture, the states are means over the components of the table, weighted by their shares
        in the word. The negative log-likelihood of a word is at most the mean over the components
        with these weights (the bound of expectation maximisation), which follows from sums of
        these mean states.

        Args:
            table: Index of the table.
            queries: Row queries and column queries, `(..., M, H)` each.
            targets: `(...)`.
            log_probs: Log-probabilities of the targets in the components of all tables,
                `(..., tables M)`, and of all together, `(...)`. `None` for one component.
            mask: `(...)`, or `None`.
            training: Boolean, whether this is a training step.
        """
        queries = [ops.stop_gradient(x) for x in queries]
        if log_probs is not None:
            joint, total = (ops.stop_gradient(x) for x in log_probs)

        def make_tensors() -> list[Tensor]:
            if log_probs is None:
                shown = [*(ops.squeeze(x, -2) for x in queries), targets, mask, None]
            else:
                start = table * self.num_components
                shares = joint[..., start : start + self.num_components]
                shares = ops.exp(shares - ops.expand_dims(total, -1))  # (..., M)
                share = ops.sum(shares, axis=-1)  # (...)
                shares = shares / ops.maximum(ops.expand_dims(share, -1), 1e-30)
                shown = [
                    ops.sum(x * ops.cast(ops.expand_dims(shares, -1), x.dtype), axis=-2)
                    for x in queries
                ]
                shown += [targets, mask, share if self.further_tables else None]
            # Observers see windows; of single states, each is a window of one word.
            if len(targets.shape) == 1:
                shown = [None if x is None else ops.expand_dims(x, 1) for x in shown]
            return shown

        self.show(make_tensors, training, table)

    def _compute_fused_log_probs(
        self, row_queries: Tensor, column_queries: Tensor, cells: Tensor
    ) -> Tensor:
        row_bias, column_bias = (
            ops.zeros((kernel.shape[0],), "float32") if bias is None else ops.cast(bias, "float32")
            for kernel, bias in (
                (self.row_kernel, self.row_bias),
                (self.column_kernel, self.column_bias),
            )
        )
        offsets = self.compute_row_offsets()
        return compute_fused_log_probs(
            row_queries,
            column_queries,
            cells,
            ops.cast(self.row_kernel, self.compute_dtype),
            row_bias if offsets is None else row_bias + offsets,
            ops.cast(self.column_kernel, self.compute_dtype),
            column_bias,
            ops.convert_to_tensor(self.word_table.words),
            ops.convert_to_tensor(self.word_table.cells),
            self._make_terms(column_queries),
        )

    def _make_terms(self, column_queries: Tensor) -> list[LogitTerm]:
        """Return the terms that words add to column logits: a new kind of term belongs here."""
        terms: list[LogitTerm] = [*self._make_bias_terms()]
        if self.word_dim:
            queries = self._project(column_queries, self.word_projection)
            kernel = (self._get_owner() or self).word_kernel
            terms.append(VectorTerm(ops.cast(kernel, "float32"), queries))
        return terms

    # The parts of a prediction, for searches, which go row by row.

    def compute_queries(self, states: Tensor) -> Tensor:
        """Return the queries of the components, `(..., H) -> (..., M, H)`.

        Example:

        >>> layer = TwoComponentSoftmax(12, num_components=2)
        >>> layer.build((None, 8))
        >>> tuple(layer.compute_queries(np.ones((3, 8), "float32")).shape)
        (3, 2, 8)
        """
        units = self.row_kernel.shape[-1]
        products = self._project(states, self.query_kernel, self.query_bias)
        queries = ops.cast(ops.tanh(products), self.compute_dtype)
        return ops.reshape(queries, (*ops.shape(states)[:-1], self.num_components, units))

    def read_rows(self, queries: Tensor, rows: Tensor) -> Tensor:
        """Return the column queries after rows, `(..., M, H), (...) -> (..., M, H)`."""
        return self.row_reader(queries, rows)

    def compute_component_log_probs(self, states: Tensor) -> Tensor:
        """Return the log-weights of all components, `(..., H) -> (..., tables M)` float32."""
        logits = self._project(states, self.component_kernel, self.component_bias)
        return ops.log_softmax(logits)

    def compute_row_logits(self, row_queries: Tensor, row_offsets: Tensor = None) -> Tensor:
        """Return the logits of all rows, `(..., H) -> (..., R)`.

        Args:
            row_queries: `(..., H)`: column half-steps, or queries of components.
            row_offsets: The result of `compute_row_offsets`, or `None` to compute it.
        """
        logits = self._project(row_queries, ops.transpose(self.row_kernel), self.row_bias)
        offsets = self.compute_row_offsets() if row_offsets is None else row_offsets
        return logits if offsets is None else logits + offsets

    def compute_column_logits(
        self, column_queries: Tensor, rows: Tensor, cell_logits: Tensor = None
    ) -> Tensor:
        """Return the logits of all columns given rows, `(..., M, H), (...) -> (..., M, C)`.

        Args:
            column_queries: `(..., M, H)`: queries that have read the rows. Row half-steps are one
                component.
            rows: `(...)` int32.
            cell_logits: The result of `compute_cell_logits`, or `None` to look up the words' terms.
        """
        logits = self._project(column_queries, ops.transpose(self.column_kernel), self.column_bias)
        terms = self._make_terms(column_queries)
        if cell_logits is not None:
            logits += ops.expand_dims(look_up(cell_logits, rows), -2)
            terms = [term for term in terms if term.queries is not None]
        if terms:
            words = look_up(self.word_table.words, rows)  # (..., C)
        for term in terms:
            logits += term.compute_logits(words, self.compute_dtype)
        return logits

    def compute_cell_logits(self) -> Tensor:
        """Return what words add to column logits after any text, `(R, C)`; `None` for nothing."""
        words, cells = (
            ops.convert_to_tensor(x) for x in (self.word_table.words, self.word_table.cells)
        )
        logits = [
            term.compute_all_logits(cells, words, self.compute_dtype)[:, 0]
            for term in self._make_bias_terms()
        ]
        return sum(logits[1:], logits[0]) if logits else None

    def compute_all_column_logits(self, column_queries: Tensor) -> Tensor:
        """Return the logits of all columns given every row, `(B, R, M, H) -> (B, R, M, C)`.

        Args:
            column_queries: `(B, R, M, H)`: queries that have read all rows, in order.
        """
        logits = self._project(column_queries, ops.transpose(self.column_kernel), self.column_bias)
        words, cells = (
            ops.convert_to_tensor(x) for x in (self.word_table.words, self.word_table.cells)
        )
        for term in self._make_terms(column_queries):
            logits += term.compute_all_logits(cells, words, self.compute_dtype)
        return logits

    def _project(self, x: Tensor, kernel: Tensor, bias: Tensor = None) -> Tensor:
        """Return `x · kernel + bias` in float32, `(..., H), (H, N), (N,) -> (..., N)`."""
        x, kernel = (ops.cast(y, self.compute_dtype) for y in (x, kernel))
        products = ops.cast(project(x, kernel), "float32")
        return products if bias is None else products + ops.cast(bias, "float32")

    def next_words(
        self,
        states: Tensor,
        k: int = 10,
        read_rows: Callable[[np.ndarray, np.ndarray], Any] | None = None,
        excluded: Tensor = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` likeliest words to follow some texts, exactly, for any network.

        The method takes arrays and runs outside of a graph. The layer `TopWords` does the same
        inside a model. Rows are expanded in descending order of probability, until no remaining row
        can hold a better word. With a row reader, only the states of the texts are needed.
        Half-steps also need a function that lets the network read rows.

        Args:
            states: `(B, H)`, the state after each text's last word. For half-steps, after the
                column of that word: see `TwoComponentEmbedding.embed_prefixes`.
            k: Integer in `[1, V]`; with `mask_zero`, below `V`.
            read_rows: For half-steps, a function of two int32 arrays `(n,)`, texts and rows: it
                returns `(n, H)`, the half-steps after these rows have been read after these
                texts. The vectors of rows are `TwoComponentEmbedding.row_embeddings`. `None`
                with a row reader.
            excluded: Integers, words that are not returned, -1 for none: `(B, E)`, or `(E,)` for
                all texts. Defaults to `None`.

        Returns:
            Word ids, int32, and log-probabilities in nats, float64, `(B, k)` each, best first;
            ties go to the smaller id.

        Raises:
            TypeError: if the states are symbolic.
            ValueError: if the states have another shape or are NaN, `k` is more than the words
                that are not excluded, an excluded id is out of range, or `read_rows` is given
                with a row reader or is missing without one.

        Example:

        >>> from keras_lightrnn.layers import TwoComponentEmbedding
        >>> embedding = TwoComponentEmbedding(30, 4)
        >>> softmax = TwoComponentSoftmax(embedding.word_table)
        >>> network = keras.layers.GRU(5, return_sequences=True)  # any causal layers
        >>> words = np.array([[3, 1, 4], [1, 5, 9]])
        >>> log_probs = softmax(network(embedding(words[:, :-1])), words[:, 1:])
        >>> best, log_probs = softmax.next_words(network(embedding(words))[:, -1], k=3)
        >>> best.shape, bool((log_probs[:, 0] >= log_probs[:, 1]).all())
        ((2, 3), True)

        On half-steps:

        >>> embedding = TwoComponentEmbedding(30, 4, combine="interleave")
        >>> softmax = TwoComponentSoftmax(embedding.word_table, row_reader=None)
        >>> log_probs = softmax(network(embedding(words)), words[:, 1:])
        >>> prefixes = embedding.embed_prefixes(words)
        >>> def read_rows(texts, rows):
        ...     vectors = ops.take(embedding.row_embeddings, rows, axis=0)
        ...     longer = [ops.take(prefixes, texts, axis=0), vectors[:, None]]
        ...     return network(ops.concatenate(longer, axis=1))[:, -1]
        >>> best, log_probs = softmax.next_words(network(prefixes)[:, -1], 3, read_rows)
        >>> best.shape
        (2, 3)
        """
        _check_states_are_values(states, "TopWords")
        check_k("k", k, self.word_table.vocabulary_size - self.mask_zero)
        if (read_rows is None) == (self.row_reader is None):
            needed = "needs" if read_rows is None else "takes no"
            raise ValueError(
                f"A softmax with row_reader={self.row_reader} {needed} `read_rows`. Received: "
                f"read_rows={read_rows}. Half-steps need a function by which the network reads "
                "rows; with a row reader the states are enough."
            )
        search: Any = (
            search_states(self, states)
            if read_rows is None
            else HalfStepSearch(self, states, read_rows)
        )
        if excluded is not None:
            size = self.word_table.vocabulary_size
            search.exclude(check_excluded(excluded, search.num_texts, size, k, self.mask_zero))
        return search.best_words(k)

    def compute_ranks(self, states: Tensor, targets: WordIds, excluded: Tensor = None) -> Tensor:
        """Return the rank of each target among all words, exactly.

        The likeliest word has the rank 1. Only rows that may hold likelier words are computed.
        Metrics such as `metrics.RecallAtK` take ranks as predictions.

        Args:
            states: As in a call, with a row reader: `(B, T, H)` or `(B, H)`.
            targets: Word ids, `(B, T)` or `(B,)`.
            excluded: Integers, words that do not count, such as items that a user has seen, -1 for
                none: `(B, E)`. The target itself always counts. Defaults to `None`.

        Returns:
            Ranks, int32, of the shape of the targets: 1 plus the number of words that are likelier,
            or as likely with a smaller id. With `mask_zero`, padding does not count, and the rank
            of the target 0 is 0. The rank is -1 if the model computes NaN or an id is out of range.

        Raises:
            TypeError: if the states are symbolic.
            ValueError: if the layer has no row reader or is not built, or the shapes disagree.

        Example:

        >>> layer = TwoComponentSoftmax(12)
        >>> states = np.ones((2, 8), "float32")
        >>> layer.build(states.shape)
        >>> words, _ = layer.next_words(states, k=3)
        >>> np.asarray(layer.compute_ranks(states, words[:, 2])).tolist()
        [3, 3]
        """
        _check_states_are_values(states, "TargetRanks")
        states, targets = ops.convert_to_tensor(states), cast_word_ids(targets)
        if self.row_reader is None:
            raise ValueError(
                "Ranks need a softmax with a row reader. Received: row_reader=None. Give "
                'row_reader="gated".'
            )
        check_built(self)
        self._check_shapes(states.shape, targets.shape)
        flat_states = ops.reshape(states, (-1, states.shape[-1]))
        if excluded is not None:
            excluded = cast_word_ids(excluded)
            check_excluded_shape(excluded, targets.shape[0])
            if len(targets.shape) == 2:
                excluded = ops.repeat(excluded, ops.shape(targets)[1], axis=0)
        ranks = find_word_ranks(self, flat_states, ops.reshape(targets, (-1,)), excluded)
        return ops.reshape(ranks, ops.shape(targets))

    # Keras conventions.

    def compute_mask(self, states: Tensor, previous_mask: Tensor = None) -> Tensor:
        """Return which targets have a state that is not masked, or `None` if all have."""
        if previous_mask is None or self.row_reader is not None:
            return previous_mask
        column_mask, row_mask = split_half_steps(previous_mask)
        return ops.logical_and(column_mask, row_mask)

    def _mask_targets(self, states: Tensor, targets: WordIds) -> Tensor:
        """Return which targets count, or `None` if all do."""
        mask = self.compute_mask(states, get_mask(states))
        if not self.mask_zero:
            return mask
        is_word = ops.not_equal(targets, 0)
        return is_word if mask is None else ops.logical_and(mask, is_word)

    def _check_shapes(self, states_shape: Shape, targets_shape: Shape) -> None:
        states_shape, targets_shape = tuple(states_shape), tuple(targets_shape)
        received = f"Received: states.shape={states_shape}, targets.shape={targets_shape}, "
        check_state_size(self, states_shape, received)
        if self.row_reader is not None:
            # More axes would mislead searches and the sums of a reallocation.
            if len(states_shape) in (2, 3) and shapes_agree(states_shape[:-1], targets_shape):
                return
            hint = "The targets of a window (B, T + 1) are its words from the second on."
            length = _double(targets_shape) if len(targets_shape) == 2 else None
            if len(states_shape) > 3:
                hint = (
                    "Merge the first axes, with `ops.reshape(states, (-1, *states.shape[-2:]))` "
                    "and `ops.reshape(targets, (-1, targets.shape[-1]))`."
                )
            elif len(targets_shape) == 1 and len(states_shape) == 3:
                hint = "For one target a text give the last state of each, `states[:, -1]`."
            elif len(targets_shape) == len(states_shape):
                hint = (
                    "Remove the last axis of the targets, with `targets[..., 0]`."
                    if targets_shape[-1] == 1
                    else "Recurrent layers give a state for each word with `return_sequences=True`."
                )
            # Words that were not cut into windows make two half-steps less.
            elif length and states_shape[1:-1] in ((length,), (length - 2,)):
                hint = (
                    'These states are as long as half-steps, which combine="interleave" makes: '
                    'embed words with combine="gate", "sum" or "concat", or give this softmax '
                    "row_reader=None."
                )
            raise ValueError(
                "With a row reader, targets (B, T) need states (B, T, H), and targets (B,) need "
                f"states (B, H). {received}row_reader={type(self.row_reader).__name__}. {hint}"
            )
        is_windows = len(states_shape) == 3 and len(targets_shape) == 2
        if is_windows and shapes_agree((states_shape[1],), (_double(targets_shape),)):
            return
        raise ValueError(
            f"Without a row reader, targets (B, T) need half-steps (B, 2T, H). {received}"
            'row_reader=None. Embed windows with combine="interleave", which makes half-steps, or '
            'give row_reader="gated" for one state for each target: (B, T, H) or (B, H). The '
            "targets of a window (B, T + 1) are its words from the second on."
        )

    def compute_output_shape(self, states_shape: Shape, targets_shape: Shape) -> Shape:
        self._check_shapes(states_shape, targets_shape)
        return tuple(targets_shape)

    def compute_output_spec(
        self,
        states: Tensor,
        targets: WordIds,
        training: bool | None = None,
        fused: bool | None = None,
    ) -> keras.KerasTensor:
        shape = self.compute_output_shape(states.shape, targets.shape)
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self) -> Config:
        config = {
            **super().get_config(),
            "word_table": serialize_word_tables(self.word_tables),
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
        config |= serialize_word_vectors(self)
        config["row_reader"] = serialize_row_reader(self.row_reader)
        config |= {"num_components": self.num_components, "mask_zero": self.mask_zero}
        tied = self.tied_embedding
        config["tied_embedding"] = None if tied is None else serialize_shared(tied)
        return config | serialize_frozen_parts(self) | serialize_shared_id(self)

    @classmethod
    def from_config(cls, config: Config) -> TwoComponentSoftmax:
        config = {"row_reader": None, **config}  # files of version 0.1 have half-steps

        def make(config: Config) -> TwoComponentSoftmax:
            tied = config.get("tied_embedding")
            if tied is not None:  # it has the word tables of the softmax
                tied = keras.saving.deserialize_keras_object(tied)
                config = {**config, "tied_embedding": tied, "word_table": tied.word_tables}
            return load_frozen_parts(cls, config)

        # `TopWords` holds a softmax that may be a layer of the same model, too.
        return load_shared(config, make)


class _FurtherTable(TwoComponentSoftmax):
    """The components of a further table. Words' own weights are those of the first table."""

    def __init__(self, first: TwoComponentSoftmax, table: Any, index: int) -> None:
        # Behind a function, so that Keras does not take it for a sublayer.
        object.__setattr__(self, "_get_owner", lambda: first)
        reader = first.row_reader
        if type(reader) is GatedRowReader:
            reader = GatedRowReader(
                table.num_rows,
                reader.use_shift,
                dtype=reader.dtype_policy,
                trainable=reader.trainable,
                name="row_reader",
            )
        elif table.num_rows == first.word_table.num_rows:
            reader = type(reader).from_config(reader.get_config())
        else:
            raise ValueError(
                "A row reader of your own serves tables with one number of rows. Received: tables "
                f"of {first.word_table.num_rows} and {table.num_rows} rows, row_reader="
                f'{reader.name!r}. Give tables of one shape, or row_reader="gated".'
            )
        super().__init__(
            table,
            use_bias=first.use_bias,
            word_bias=first.word_bias,
            kernel_initializer=clone_initializer(first.kernel_initializer, 1_000 * index),
            bias_initializer=clone_initializer(first.bias_initializer, 1_000 * index),
            kernel_regularizer=first.kernel_regularizer,
            bias_regularizer=first.bias_regularizer,
            kernel_constraint=first.kernel_constraint,
            bias_constraint=first.bias_constraint,
            word_dim=first.word_dim,
            num_word_vectors=first.num_word_vectors,
            row_reader=reader,
            num_components=first.num_components,
            mask_zero=first.mask_zero,
            tied_embedding=first.tied_embedding and first.tied_embedding.list_tables()[index],
            dtype=first.dtype_policy,
            trainable=first.trainable,
            name=f"table_{index}",
        )


def _get_tied_embedding(
    identifier: Any, word_tables: list[WordTable]
) -> TwoComponentEmbedding | None:
    """Return the embedding to tie to, or `None`.

    Raises:
        TypeError: if `identifier` is neither.
        ValueError: if the embedding has other word tables.
    """
    if identifier is None:
        return None
    if not isinstance(identifier, TwoComponentEmbedding):
        raise TypeError(
            "`tied_embedding` must be a `TwoComponentEmbedding` or None. Received: tied_embedding="
            f"{identifier!r} (of type {type(identifier).__name__})."
        )
    if [id(table) for table in identifier.word_tables] != [id(table) for table in word_tables]:
        raise ValueError(
            "`tied_embedding` must have the word tables of the softmax. Received: "
            f"{len(word_tables)} word table(s) of the softmax and {len(identifier.word_tables)} of "
            "the embedding, which are other objects. Give the softmax `embedding.word_tables`."
        )
    return identifier


def _check_states_are_values(states: Tensor, layer: str) -> None:
    """Raise `TypeError` for the symbolic states of a functional model."""
    if isinstance(states, keras.KerasTensor):
        raise TypeError(
            "A search needs states that have values. Received: a symbolic `KerasTensor` of shape "
            f"{tuple(states.shape)}. Use the layer `{layer}` in a functional model."
        )


def _double(targets_shape: tuple[int | None, ...]) -> int | None:
    length = targets_shape[-1]
    return None if length is None else 2 * length
