"""Log-probabilities of words from half-steps, without keeping the logits of all the others."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_lightrnn.ops.compiled_op import compile_op
from keras_lightrnn.ops.half_steps import split_half_steps
from keras_lightrnn.ops.loops import scan
from keras_lightrnn.ops.products import multiply

# Logits that live at a time: 8 MB of float32.
_MAX_LOGITS = 2**21


def compute_fused_log_probs(
    half_steps: Any,
    cells: Any,
    row_kernel: Any,
    row_bias: Any,
    column_kernel: Any,
    column_bias: Any,
    bias_table: Any = None,
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

    Returns:
        `(B, T)` float32, in nats. Differentiable once, by everything but `cells`.

    Example:

    >>> import numpy as np
    >>> zeros = np.zeros((4, 3), "float32")
    >>> log_probs = compute_fused_log_probs(
    ...     np.ones((1, 2, 3), "float32"), np.int32([[7]]), zeros, zeros[:, 0], zeros, zeros[:, 0]
    ... )
    >>> round(float(np.exp(log_probs[0, 0])), 4)
    0.0625
    """
    inputs = [cells, half_steps, row_kernel, row_bias, column_kernel, column_bias, bias_table]
    return _run(inputs)[0]


def _forward(inputs: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the log-probabilities; and what normalises them on each side, `(B T,)` each."""
    sides = [_forward_side(*side) for side in _get_sides(inputs)]
    log_probs, *normalisers = zip(*sides, strict=True)
    return [ops.reshape(sum(log_probs), ops.shape(inputs[0]))], normalisers


def _backward(inputs: list[Any], normalisers: list[Any], upstream: list[Any]) -> list[Any]:
    """Return the gradients of the inputs."""
    _, *floats = inputs
    upstream = ops.reshape(upstream[0], (-1,))
    (d_columns, *d_row_weights), (d_rows, *d_column_weights) = (
        _backward_side(words, weights, normaliser, upstream)
        for (words, weights), *normaliser in zip(_get_sides(inputs), *normalisers, strict=True)
    )
    d_half_steps = ops.stack([d_columns, d_rows], axis=1)  # (B T, 2, H)
    d_half_steps = ops.reshape(d_half_steps, ops.shape(floats[0]))
    gradients = [d_half_steps, *d_row_weights, *d_column_weights]
    gradients = [ops.cast(d, value.dtype) for d, value in zip(gradients, floats, strict=False)]
    return [None, *gradients, *[None] * (len(floats) - len(gradients))]


_run = compile_op(_forward, _backward)


def _get_sides(inputs: list[Any]) -> list[tuple[list[Any], list[Any]]]:
    """Return, for rows and for columns, what there is for each word, and the weights."""
    cells, half_steps, row_kernel, row_bias, column_kernel, column_bias, bias_table = inputs
    num_columns, units = column_kernel.shape
    column_half_steps, row_half_steps = (
        ops.reshape(x, (-1, units)) for x in split_half_steps(half_steps)
    )  # (B T, H) each
    cells = ops.reshape(cells, (-1,))
    rows, columns = cells // num_columns, cells % num_columns
    row_side = [column_half_steps, rows], [row_kernel, row_bias]
    if bias_table is None:
        return [row_side, ([row_half_steps, columns], [column_kernel, column_bias])]
    column_weights = [column_kernel, column_bias, bias_table]
    return [row_side, ([row_half_steps, columns, rows], column_weights)]


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
    words: list[Any], weights: list[Any], normaliser: list[Any], upstream: Any
) -> list[Any]:
    """Return the gradients of the half-steps and of the weights."""
    kernel = weights[0]

    def step(totals: list[Any], words: list[Any]) -> tuple[list[Any], list[Any]]:
        upstream, largest, log_total, *words = words
        logits, is_class = _compute_logits(words, weights)
        # Two differences: the sum of both would cost large logits their last digits.
        probabilities = ops.exp((logits - largest[:, None]) - log_total[:, None])
        d_logits = upstream[:, None] * (ops.cast(is_class, "float32") - probabilities)  # (n, K)
        factor = ops.cast(d_logits, kernel.dtype)
        x, _, *rows = words
        new = [multiply(ops.transpose(factor), ops.cast(x, kernel.dtype)), ops.sum(d_logits, 0)]
        if rows:
            new.append(ops.segment_sum(d_logits, rows[0], weights[2].shape[0]))
        return [a + b for a, b in zip(totals, new, strict=True)], [multiply(factor, kernel)]

    zeros = [ops.zeros(weight.shape, "float32") for weight in weights]
    chunks = _split([upstream, *normaliser, *words], weights)
    totals, [dx] = scan(step, zeros, chunks, [(None, kernel.shape[1])])
    return [ops.reshape(dx, (-1, kernel.shape[1]))[: ops.shape(words[0])[0]], *totals]


def _compute_logits(words: list[Any], weights: list[Any]) -> tuple[Any, Any]:
    """Return logits `(n, K)`, and which of them are those of the classes."""
    x, classes, *rows = words
    kernel, bias, *bias_table = weights
    logits = multiply(x, ops.transpose(kernel)) + ops.cast(bias, "float32")
    if rows:
        logits = logits + ops.take(bias_table[0], rows[0], axis=0)
    return logits, ops.arange(kernel.shape[0]) == classes[:, None]


def _split(arrays: list[Any], weights: list[Any]) -> list[Any]:
    """Split the first axis of arrays, padded with zeros, into chunks of one size."""
    size = ops.shape(arrays[0])[0]
    # At least one: a replica's share of a batch may be empty; XLA refuses a loop over nothing.
    num_chunks = 1 + size * weights[0].shape[0] // _MAX_LOGITS
    chunk = -(-size // num_chunks)
    chunks = []
    for array in arrays:
        padding = ops.zeros((num_chunks * chunk - size, *array.shape[1:]), array.dtype)
        padded = ops.concatenate([array, padding])
        chunks.append(ops.reshape(padded, (num_chunks, chunk, *array.shape[1:])))
    return chunks
