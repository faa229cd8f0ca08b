"""Log-probabilities of words from half-steps, without keeping the logits of all the others."""

from __future__ import annotations

from typing import Any, NamedTuple

from keras import ops

from keras_lightrnn.ops.compiled_op import compile_op
from keras_lightrnn.ops.half_steps import split_half_steps
from keras_lightrnn.ops.look_up import look_up_word_vectors
from keras_lightrnn.ops.loops import scan
from keras_lightrnn.ops.products import multiply

# Logits, and terms of them, that live at a time: 8 MB of float32.
_MAX_LOGITS = 2**21


class WordVectors(NamedTuple):
    """What adds `queries · word_kernel[w]` to the column logit of each word `w` of a row.

    Attributes:
        queries: `(B, T, K)`.
        kernel: `(N, K)`, of the words `0 .. N - 1`; the others have zeros.
        words: `(R, C)` int32, the word in each cell, -1 in empty ones.
        cells: `(V,)` int32, the cell of each word.

    Example:

    >>> import numpy as np
    >>> zeros, cells = np.zeros((2, 3), "float32"), np.arange(4, dtype="int32")
    >>> kernel = np.float32([[0.0], [np.log(3)]])  # of words 0 and 1
    >>> vectors = WordVectors(np.ones((1, 1, 1), "float32"), kernel, cells.reshape(2, 2), cells)
    >>> log_probs = compute_fused_log_probs(
    ...     np.ones((1, 2, 3), "float32"), np.int32([[1]]), zeros, zeros[:, 0], zeros, zeros[:, 0],
    ...     word_vectors=vectors
    ... )
    >>> round(float(np.exp(log_probs[0, 0])), 4)  # half of the rows, three quarters of the row
    0.375
    """

    queries: Any
    kernel: Any
    words: Any
    cells: Any


def compute_fused_log_probs(
    half_steps: Any,
    cells: Any,
    row_kernel: Any,
    row_bias: Any,
    column_kernel: Any,
    column_bias: Any,
    bias_table: Any = None,
    word_vectors: WordVectors | None = None,
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
        bias_table: `(R, C)`, added to the column logits of its row; or `None`.
        word_vectors: `WordVectors` or `None`.

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
    return _run([*inputs, bias_table, *(word_vectors or [None] * 4)])[0]


def _forward(inputs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the log-probabilities; and what normalises them on each side, `(B T,)` each."""
    sides = [_forward_side(*side) for side in _get_sides(inputs)]
    log_probs, *normalisers = zip(*sides, strict=True)
    return [ops.reshape(sum(log_probs), ops.shape(inputs[0]))], normalisers


def _backward(inputs: list[Any], normalisers: list[Any], upstream: list[Any]) -> list[Any]:
    """Return the gradients of the inputs."""
    (row_words, row_weights), (column_words, column_weights) = _get_sides(inputs)
    (row_normaliser, column_normaliser) = zip(*normalisers, strict=True)
    upstream = ops.reshape(upstream[0], (-1,))
    [d_columns], d_row_weights = _backward_side(row_words, row_weights, row_normaliser, upstream)
    [d_rows, *d_queries], [*d_column_weights] = _backward_side(
        column_words, column_weights, column_normaliser, upstream
    )
    d_tables = d_column_weights[2:]
    gradients = [
        None,
        ops.stack([d_columns, d_rows], axis=1),  # (B T, 2, H)
        *d_row_weights,
        *d_column_weights[:2],
        d_tables[0] if d_tables else None,
        *d_queries,
    ]
    if d_queries:
        word_kernel, _, cells = inputs[8:]
        d_cells = ops.reshape(d_tables[1], (-1, word_kernel.shape[1]))  # (R C, K)
        gradients.append(ops.take(d_cells, cells[: word_kernel.shape[0]], axis=0))
    gradients += [None] * (len(inputs) - len(gradients))
    return [
        None if d is None or x is None else ops.cast(ops.reshape(d, ops.shape(x)), x.dtype)
        for d, x in zip(gradients, inputs, strict=True)
    ]


_run = compile_op(_forward, _backward)


def _get_sides(inputs: list[Any]) -> list[tuple[list[Any], list[Any]]]:
    """Return, for rows and for columns, what there is for each word, and the weights.

    For rows: hidden half-steps, classes; kernel, bias. For columns also, where needed: the rows,
    the queries; the bias table, the word kernels in the order of the cells.
    """
    cells, half_steps, row_kernel, row_bias, column_kernel, column_bias, bias_table = inputs[:7]
    queries, word_kernel, table_words, _ = inputs[7:]
    num_columns, units = column_kernel.shape
    column_half_steps, row_half_steps = (
        ops.reshape(x, (-1, units)) for x in split_half_steps(half_steps)
    )  # (B T, H) each
    cells = ops.reshape(cells, (-1,))
    rows, columns = cells // num_columns, cells % num_columns
    words, weights = [row_half_steps, columns], [column_kernel, column_bias]
    if queries is not None and bias_table is None:
        bias_table = ops.zeros((row_kernel.shape[0], num_columns), "float32")
    if bias_table is not None:
        words.append(rows)
        weights.append(bias_table)
    if queries is not None:
        words.append(ops.cast(ops.reshape(queries, (-1, queries.shape[-1])), "float32"))
        vectors = look_up_word_vectors(word_kernel, table_words)
        weights.append(ops.cast(vectors, "float32"))  # (R, C, K)
    return [([column_half_steps, rows], [row_kernel, row_bias]), (words, weights)]


def _forward_side(words: list[Any], weights: list[Any]) -> list[Any]:
    """Return log-probabilities, largest logits, and logs of normalisers above those, `(N,)`."""

    def step(carry: list[Any], words: list[Any]) -> tuple[list[Any], list[Any]]:
        logits, is_class = _compute_logits(words, weights)
        largest = ops.max(logits, axis=-1)
        log_total = ops.log(ops.sum(ops.exp(logits - largest[:, None]), axis=-1))
        picked = ops.sum(ops.where(is_class, logits, 0.0), axis=-1)
        return carry, [(picked - largest) - log_total, largest, log_total]

    _, outputs = scan(step, [], _split(words, weights), [(None,)] * 3)
    return [ops.reshape(y, (-1,))[: ops.shape(words[0])[0]] for y in outputs]


def _backward_side(
    words: list[Any], weights: list[Any], normaliser: Any, upstream: Any
) -> tuple[list[Any], list[Any]]:
    """Return the gradients of the half-steps, and of the queries; and of the weights."""
    kernel, _, *tables = weights

    def step(totals: list[Any], words: list[Any]) -> tuple[list[Any], list[Any]]:
        upstream, largest, log_total, *words = words
        logits, is_class = _compute_logits(words, weights)
        # Two differences: the sum of both would cost large logits their last digits.
        probabilities = ops.exp((logits - largest[:, None]) - log_total[:, None])
        d_logits = upstream[:, None] * (ops.cast(is_class, "float32") - probabilities)  # (n, K)
        factor = ops.cast(d_logits, kernel.dtype)
        x, _, *rest = words
        new = [multiply(ops.transpose(factor), ops.cast(x, kernel.dtype)), ops.sum(d_logits, 0)]
        outputs = [multiply(factor, kernel)]
        if tables:
            rows, *queries = rest
            new.append(ops.segment_sum(d_logits, rows, tables[0].shape[0]))
            if queries:
                products = d_logits[:, :, None] * queries[0][:, None, :]  # (n, C, K)
                new.append(ops.segment_sum(products, rows, tables[1].shape[0]))
                vectors = ops.take(tables[1], rows, axis=0)
                outputs.append(ops.sum(d_logits[:, :, None] * vectors, axis=1))
        return [a + b for a, b in zip(totals, new, strict=True)], outputs

    zeros = [ops.zeros(weight.shape, "float32") for weight in weights]
    shapes = [(None, kernel.shape[1])] + [(None, vectors.shape[2]) for vectors in tables[1:]]
    chunks = _split([upstream, *normaliser, *words], weights)
    totals, outputs = scan(step, zeros, chunks, shapes)
    size = ops.shape(words[0])[0]
    return [ops.reshape(y, (-1, y.shape[-1]))[:size] for y in outputs], totals


def _compute_logits(words: list[Any], weights: list[Any]) -> tuple[Any, Any]:
    """Return logits `(n, K)`, and which of them are those of the classes."""
    x, classes, *rest = words
    kernel, bias, *tables = weights
    logits = multiply(x, ops.transpose(kernel)) + ops.cast(bias, "float32")
    if tables:
        rows, *queries = rest
        logits = logits + ops.take(tables[0], rows, axis=0)
        if queries:
            # Not a product of matrices: compiled, the look-up needs no memory then.
            vectors = ops.take(tables[1], rows, axis=0)  # (n, C, K)
            logits = logits + ops.sum(vectors * queries[0][:, None, :], axis=-1)
    return logits, ops.arange(kernel.shape[0]) == classes[:, None]


def _split(arrays: list[Any], weights: list[Any]) -> list[Any]:
    """Split the first axis of arrays, padded with zeros, into chunks of one size."""
    size = ops.shape(arrays[0])[0]
    # What a word takes: logits, and the products with word vectors that they are sums of.
    logits = weights[0].shape[0] * (weights[3].shape[2] if len(weights) > 3 else 1)
    # At least one: a replica's share of a batch may be empty; XLA refuses a loop over nothing.
    num_chunks = 1 + size * logits // _MAX_LOGITS
    chunk = -(-size // num_chunks)
    chunks = []
    for array in arrays:
        padding = ops.zeros((num_chunks * chunk - size, *array.shape[1:]), array.dtype)
        padded = ops.concatenate([array, padding])
        chunks.append(ops.reshape(padded, (num_chunks, chunk, *array.shape[1:])))
    return chunks
