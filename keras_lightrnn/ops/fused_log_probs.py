"""Log-probabilities of words from half-steps, without keeping the logits of all the others."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_lightrnn.ops.compiled_op import compile_op
from keras_lightrnn.ops.half_steps import split_half_steps
from keras_lightrnn.ops.log_probs import compute_bias_table
from keras_lightrnn.ops.look_up import look_up_word_vectors
from keras_lightrnn.ops.loops import scan
from keras_lightrnn.ops.products import multiply
from keras_lightrnn.ops.sums import add_rows

# Logits, and terms of them, that live at a time: 8 MB of float32.
_MAX_LOGITS = 2**21


class WordTerms(NamedTuple):
    """What words add to logits besides their row and column. Empty cells have no probability.

    Attributes:
        words: `(R, C)` int32, the word in each cell, -1 in empty ones.
        cells: `(V,)` int32, the cell of each word.
        row_offsets: `(R,)` float32, added to row logits: what `compute_row_offsets` returns; or
            `None`. It has no gradient; that of `bias` includes what comes through it.
        bias: `(V,)` float32, added to the column logit of its word; or `None`.
        queries: `(B, T, K)`, or `None`.
        kernel: `(N, K)`, of the words `0 .. N - 1`: `queries · kernel[w]` is added to the column
            logit of word `w`; or `None`.

    Example:

    >>> import numpy as np
    >>> zeros, cells = np.zeros((2, 3), "float32"), np.arange(4, dtype="int32")
    >>> kernel = np.float32([[0.0], [np.log(3)]])  # of words 0 and 1
    >>> queries = np.ones((1, 1, 1), "float32")
    >>> terms = WordTerms(cells.reshape(2, 2), cells, queries=queries, kernel=kernel)
    >>> log_probs = compute_fused_log_probs(
    ...     np.ones((1, 2, 3), "float32"), np.int32([[1]]), zeros, zeros[:, 0], zeros, zeros[:, 0],
    ...     terms
    ... )
    >>> round(float(np.exp(log_probs[0, 0])), 4)  # half of the rows, three quarters of the row
    0.375
    """

    words: Any
    cells: Any
    row_offsets: Any = None
    bias: Any = None
    queries: Any = None
    kernel: Any = None


def compute_fused_log_probs(
    half_steps: Any,
    cells: Any,
    row_kernel: Any,
    row_bias: Any,
    column_kernel: Any,
    column_bias: Any,
    word_terms: WordTerms | None = None,
    is_bias_fixed: bool = False,
) -> Any:
    """Return `log P(row) + log P(column | row)` of words from the half-steps before them.

    What `compute_word_log_probs` computes from logits; here logits live in chunks, in the
    forward and again in the backward pass, and between the two only their normalisers are
    kept. On TensorFlow XLA compiles it wherever it is called from. TensorFlow and JAX only.

    Args:
        half_steps: `(B, 2T, H)`; those at even places predict rows, those at odd ones columns.
        cells: `(B, T)` int32, the cells of the words predicted.
        row_kernel: `(R, H)`. The dtype of the kernels is that of the products; sums, logits
            and biases are float32.
        row_bias: `(R,)`.
        column_kernel: `(C, H)`.
        column_bias: `(C,)`.
        word_terms: `WordTerms`; `None` for a full table without any.
        is_bias_fixed: Boolean, whether the bias of words gets no gradient, which saves time.

    Returns:
        `(B, T)` float32, in nats. Differentiable once, by everything but integers.

    Example:

    >>> import numpy as np
    >>> zeros = np.zeros((4, 3), "float32")
    >>> log_probs = compute_fused_log_probs(
    ...     np.ones((1, 2, 3), "float32"), np.int32([[7]]), zeros, zeros[:, 0], zeros, zeros[:, 0]
    ... )
    >>> round(float(np.exp(log_probs[0, 0])), 4)
    0.0625
    """
    inputs = [cells, half_steps, row_kernel, row_bias, column_kernel, column_bias]
    terms = word_terms or [None] * len(WordTerms._fields)
    return _run([*inputs, *terms], is_bias_fixed)[0]


class _Words(NamedTuple):
    """The words predicted, as one side sees them; what is last may be missing.

    Attributes:
        half_steps: `(N, H)`, hidden half-steps.
        classes: `(N,)` int32, their rows or columns.
        places: `(N,)` int32, numbers of their rows among those that occur.
        queries: `(N, K)`.
    """

    half_steps: Any
    classes: Any
    places: Any = None
    queries: Any = None


class _Weights(NamedTuple):
    """The weights of one side; what is last may be missing.

    Attributes:
        kernel: `(R, H)` or `(C, H)`.
        bias: `(R,)` or `(C,)`.
        bias_table: `(n, C)`, biases of the words in the rows that occur.
        vectors: `(n, C, K)`, word kernels of those words.
    """

    kernel: Any
    bias: Any
    bias_table: Any = None
    vectors: Any = None


def _forward(inputs: list[Any], is_bias_fixed: bool) -> tuple[list[Any], list[Any]]:
    """Return the log-probabilities; and what normalises them on each side, `(B T,)` each."""
    sides = [_forward_side(*side) for side in _get_sides(inputs)]
    log_probs, *normalisers = zip(*sides, strict=True)
    return [ops.reshape(sum(log_probs), ops.shape(inputs[0]))], normalisers


def _backward(
    inputs: list[Any], normalisers: list[Any], upstream: list[Any], is_bias_fixed: bool
) -> list[Any]:
    """Return the gradients of the inputs."""
    row_side, column_side = _get_sides(inputs)
    row_normaliser, column_normaliser = zip(*normalisers, strict=True)
    upstream = ops.reshape(upstream[0], (-1,))
    terms = _get_terms(inputs)
    is_bias_trained = terms.bias is not None and not is_bias_fixed
    d_row_words, d_row_weights = _backward_side(*row_side, row_normaliser, upstream)
    d_column_words, d_column_weights = _backward_side(
        *column_side, column_normaliser, upstream, is_bias_trained
    )
    d_bias = d_kernel = None
    if is_bias_trained:
        d_bias = _collect(d_column_weights.bias_table, inputs, terms.cells)
        rows = terms.cells // terms.words.shape[1]  # (V,)
        # The derivative of a log-sum-exp is a softmax.
        shares = ops.exp(terms.bias - ops.take(terms.row_offsets, rows))
        d_bias += ops.take(d_row_weights.bias, rows) * shares
    if terms.kernel is not None:
        cells = terms.cells[: terms.kernel.shape[0]]
        d_kernel = _collect(d_column_weights.vectors, inputs, cells)
    gradients = [
        None,
        ops.stack([d_row_words.half_steps, d_column_words.half_steps], axis=1),  # (B T, 2, H)
        d_row_weights.kernel,
        d_row_weights.bias,
        d_column_weights.kernel,
        d_column_weights.bias,
        *WordTerms(None, None, None, d_bias, d_column_words.queries, d_kernel),
    ]
    return [
        None if d is None else ops.cast(ops.reshape(d, ops.shape(x)), x.dtype)
        for d, x in zip(gradients, inputs, strict=True)
    ]


_run = compile_op(_forward, _backward)


def _get_terms(inputs: list[Any]) -> WordTerms:
    """Return the last of the inputs, as `compute_fused_log_probs` orders them."""
    return WordTerms(*inputs[-len(WordTerms._fields) :])


def _number_rows(rows: Any, num_rows: int) -> tuple[Any, Any]:
    """Number the rows that occur in `rows`, `(B T,)`: no others need be laid out.

    Returns:
        The number of each row, -1 if it does not occur, `(R,)`; and the rows by number, as many
        as may occur, `(min(R, B T),)`.
    """
    occurs = ops.segment_sum(ops.ones_like(rows), rows, num_rows) > 0  # (R,)
    numbers = ops.cumsum(ops.cast(occurs, "int32")) - 1
    chosen = ops.where(occurs, ops.arange(num_rows, dtype="int32"), 0)
    chosen = ops.segment_sum(chosen, ops.maximum(numbers, 0), num_rows)
    return ops.where(occurs, numbers, -1), chosen[: ops.shape(rows)[0]]


def _collect(gradients: Any, inputs: list[Any], cells: Any) -> Any:
    """Return gradients of the words in `cells`, zero where their row is not laid out.

    Args:
        gradients: `(n, C, ...)`, by the numbers of the rows.
        inputs: Those of `_forward`.
        cells: `(N,)`.
    """
    num_rows, num_columns = _get_terms(inputs).words.shape
    places, _ = _number_rows(ops.reshape(inputs[0], (-1,)) // num_columns, num_rows)
    places = ops.take(places, cells // num_columns)  # (N,)
    flat = ops.reshape(gradients, (-1, *gradients.shape[2:]))  # (n C, ...)
    found = ops.take(flat, ops.maximum(places, 0) * num_columns + cells % num_columns, axis=0)
    is_found = ops.reshape(places >= 0, (-1, *[1] * (len(flat.shape) - 1)))
    return ops.where(is_found, found, 0.0)


def _get_sides(inputs: list[Any]) -> list[tuple[_Words, _Weights]]:
    """Return what predicts rows, and what predicts columns."""
    cells, half_steps, row_kernel, row_bias, column_kernel, column_bias, *_ = inputs
    terms = _get_terms(inputs)
    num_columns, units = column_kernel.shape
    column_half_steps, row_half_steps = (
        ops.reshape(x, (-1, units)) for x in split_half_steps(half_steps)
    )  # (B T, H) each
    cells = ops.reshape(cells, (-1,))
    rows, columns = cells // num_columns, cells % num_columns
    places = queries = bias_table = vectors = None
    if terms.row_offsets is not None:
        row_bias = ops.cast(row_bias, "float32") + terms.row_offsets
    if terms.words is not None:
        numbers, chosen = _number_rows(rows, row_kernel.shape[0])
        places = ops.take(numbers, rows)
        words_of_rows = ops.take(terms.words, chosen, axis=0)  # (n, C)
        bias_table = compute_bias_table(terms.bias, words_of_rows)
    if terms.queries is not None:
        queries = ops.cast(ops.reshape(terms.queries, (-1, terms.queries.shape[-1])), "float32")
        vectors = look_up_word_vectors(terms.kernel, words_of_rows)  # (n, C, K)
        vectors = ops.cast(ops.cast(vectors, column_kernel.dtype), "float32")
    return [
        (_Words(column_half_steps, rows), _Weights(row_kernel, row_bias)),
        (
            _Words(row_half_steps, columns, places, queries),
            _Weights(column_kernel, column_bias, bias_table, vectors),
        ),
    ]


def _forward_side(words: _Words, weights: _Weights) -> list[Any]:
    """Return log-probabilities, largest logits, and logs of normalisers above those, `(N,)`."""

    def step(carry: list[Any], present: list[Any]) -> tuple[list[Any], list[Any]]:
        logits, is_class = _compute_logits(_Words(*present), weights)
        largest = ops.max(logits, axis=-1)
        log_total = ops.log(ops.sum(ops.exp(logits - largest[:, None]), axis=-1))
        picked = ops.sum(ops.where(is_class, logits, 0.0), axis=-1)
        return carry, [(picked - largest) - log_total, largest, log_total]

    _, outputs = scan(step, [], _split(_list_present(words), weights), [(None,)] * 3)
    return [ops.reshape(y, (-1,))[: ops.shape(words.classes)[0]] for y in outputs]


def _backward_side(
    words: _Words,
    weights: _Weights,
    normaliser: Any,
    upstream: Any,
    is_bias_trained: bool = False,
) -> tuple[_Words, _Weights]:
    """Return the gradients of the words' half-steps and queries, and of the weights.

    Args:
        words: The words.
        weights: The weights.
        normaliser: What `_forward_side` leaves.
        upstream: `(B T,)`.
        is_bias_trained: Boolean, whether the table of biases gets a gradient.
    """
    kernel, bias, bias_table, vectors = weights
    trained = [kernel, bias, bias_table if is_bias_trained else None, vectors]

    def step(totals: list[Any], present: list[Any]) -> tuple[list[Any], list[Any]]:
        upstream, largest, log_total, *present = present
        here = _Words(*present)
        logits, is_class = _compute_logits(here, weights)
        # Two differences: the sum of both would cost large logits their last digits.
        probabilities = ops.exp((logits - largest[:, None]) - log_total[:, None])
        d_logits = upstream[:, None] * (ops.cast(is_class, "float32") - probabilities)  # (n, C)
        factor = ops.cast(d_logits, kernel.dtype)
        d_kernel, d_bias, *d_tables = totals
        d_kernel += multiply(ops.transpose(factor), ops.cast(here.half_steps, kernel.dtype))
        d_bias += ops.sum(d_logits, 0)
        outputs = [multiply(factor, kernel)]
        terms = [d_logits] if is_bias_trained else []
        if vectors is not None:
            terms.append(d_logits[:, :, None] * here.queries[:, None, :])  # (n, C, K)
            of_words = ops.take(vectors, here.places, axis=0)
            outputs.append(ops.sum(d_logits[:, :, None] * of_words, axis=1))
        d_tables = [add_rows(d, here.places, x) for d, x in zip(d_tables, terms, strict=True)]
        return [d_kernel, d_bias, *d_tables], outputs

    totals = [ops.zeros(ops.shape(weight), "float32") for weight in _list_present(trained)]
    shapes = [(None, kernel.shape[1])]
    if vectors is not None:
        shapes.append((None, vectors.shape[2]))
    chunks = _split([upstream, *normaliser, *_list_present(words)], weights)
    totals, outputs = scan(step, totals, chunks, shapes)
    size = ops.shape(words.classes)[0]
    d_half_steps, *d_queries = (ops.reshape(y, (-1, y.shape[-1]))[:size] for y in outputs)
    rest = iter(totals)
    return (
        _Words(d_half_steps, None, None, *d_queries),
        _Weights(*(None if weight is None else next(rest) for weight in trained)),
    )


def _compute_logits(words: _Words, weights: _Weights) -> tuple[Any, Any]:
    """Return logits `(n, C)`, and which of them are those of the classes."""
    kernel, bias, bias_table, vectors = weights
    logits = multiply(words.half_steps, ops.transpose(kernel)) + ops.cast(bias, "float32")
    if bias_table is not None:
        logits = logits + ops.take(bias_table, words.places, axis=0)
    if vectors is not None:
        # Not a product of matrices: compiled, the look-up needs no memory then.
        of_words = ops.take(vectors, words.places, axis=0)  # (n, C, K)
        logits = logits + ops.sum(of_words * words.queries[:, None, :], axis=-1)
    return logits, ops.arange(kernel.shape[0]) == words.classes[:, None]


def _list_present(values: Any) -> list[Any]:
    return [value for value in values if value is not None]


def _split(arrays: list[Any], weights: _Weights) -> list[Any]:
    """Split the first axis of arrays, padded with zeros, into chunks of one size."""
    size = ops.shape(arrays[0])[0]
    # What a word takes: logits, and the products with word vectors that they are sums of.
    depth = 1 if weights.vectors is None else weights.vectors.shape[2]
    logits = weights.kernel.shape[0] * depth
    # At least one: a replica's share of a batch may be empty; XLA refuses a loop over nothing.
    # Divided and not multiplied by, for the product of the two may not fit into an int32.
    num_chunks = 1 + size // max(1, _MAX_LOGITS // logits)
    chunk = -(-size // num_chunks)
    chunks = []
    for array in arrays:
        padding = ops.zeros((num_chunks * chunk - size, *array.shape[1:]), array.dtype)
        padded = ops.concatenate([array, padding])
        chunks.append(ops.reshape(padded, (num_chunks, chunk, *array.shape[1:])))
    return chunks
