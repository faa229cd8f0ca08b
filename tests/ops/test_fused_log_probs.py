from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn.ops import (
    WordVectors,
    compute_fused_log_probs,
    compute_word_log_probs,
    fused_log_probs,
)

B, T, H, R, C = 3, 4, 5, 7, 6
NAMES = ["half_steps", "row_kernel", "row_bias", "column_kernel", "column_bias", "bias_table"]


@pytest.fixture(params=[2**21, 40], ids=["one chunk", "padded chunks"])
def max_logits(request, monkeypatch):
    monkeypatch.setattr(fused_log_probs, "_MAX_LOGITS", request.param)
    # The limit is not among what a compiled function is told apart by.
    op = fused_log_probs.compile_op(fused_log_probs._forward, fused_log_probs._backward)
    monkeypatch.setattr(fused_log_probs, "_run", op)


def make_inputs(rng, with_table=True, scale=1.0):
    """Return cells, the upstream gradient, and the float inputs in order."""
    shapes = [(B, 2 * T, H), (R, H), (R,), (C, H), (C,), (R, C)]
    floats = [(scale * rng.normal(size=shape)).astype("float32") for shape in shapes]
    cells = rng.integers(R * C, size=(B, T)).astype("int32")
    upstream = rng.normal(size=(B, T)).astype("float32")
    return cells, upstream, floats if with_table else floats[:-1]


def compute_exactly(cells, upstream, floats):
    """Log-probabilities and gradients of their sum with `upstream`, word by word in float64."""
    floats = [np.asarray(x, "float64") for x in floats]
    half_steps, row_kernel, row_bias, column_kernel, column_bias, *table = floats
    log_probs, gradients = np.zeros((B, T)), [np.zeros(x.shape) for x in floats]
    for b in range(B):
        for t in range(T):
            row, column = divmod(int(cells[b, t]), C)
            for place, kernel, bias, picked, first in (
                (2 * t, row_kernel, row_bias, row, 1),
                (2 * t + 1, column_kernel, column_bias, column, 3),
            ):
                h = half_steps[b, place]
                logits = kernel @ h + bias
                if table and first == 3:
                    logits = logits + table[0][row]
                probabilities = np.exp(logits - logits.max())
                probabilities /= probabilities.sum()
                log_probs[b, t] += np.log(probabilities[picked])
                d_logits = -upstream[b, t] * probabilities
                d_logits[picked] += upstream[b, t]
                gradients[0][b, place] += d_logits @ kernel
                gradients[first] += np.outer(d_logits, h)
                gradients[first + 1] += d_logits
                if table and first == 3:
                    gradients[5][row] += d_logits
    return [log_probs, *gradients]


def differentiate(function, cells, upstream, floats):
    floats = [tf.constant(x) for x in floats]
    with tf.GradientTape() as tape:
        tape.watch(floats)
        log_probs = function(floats[0], cells, *floats[1:])
        loss = tf.reduce_sum(log_probs * upstream)
    gradients = tape.gradient(loss, floats)
    return [np.asarray(tf.convert_to_tensor(x)) for x in (log_probs, *gradients)]


def compute_plainly(half_steps, cells, row_kernel, row_bias, column_kernel, column_bias, *table):
    row_logits = tf.matmul(half_steps[:, 0::2], row_kernel, transpose_b=True) + row_bias
    column_logits = tf.matmul(half_steps[:, 1::2], column_kernel, transpose_b=True) + column_bias
    if table:
        column_logits += tf.gather(table[0], cells // C)
    return compute_word_log_probs(row_logits, column_logits, cells)


@pytest.mark.usefixtures("max_logits")
@pytest.mark.parametrize("with_table", [False, True])
def test_equals_two_softmaxes_word_by_word(rng, with_table):
    inputs = make_inputs(rng, with_table)
    received = differentiate(compute_fused_log_probs, *inputs)
    for value, exact in zip(received, compute_exactly(*inputs), strict=True):
        assert value == pytest.approx(exact, rel=1e-5, abs=1e-5)


@pytest.mark.usefixtures("max_logits")
@pytest.mark.parametrize("with_table", [False, True])
@pytest.mark.parametrize("num_vectors", [R * C - 3, 10])
def test_word_vectors_equal_logits_word_by_word(rng, with_table, num_vectors):
    table_cells = rng.permutation(R * C)[: R * C - 3].astype("int32")  # three cells are empty
    words = np.full((R, C), -1, "int32")
    words.ravel()[table_cells] = np.arange(len(table_cells))
    cells, upstream, floats = make_inputs(rng, with_table)
    queries, kernel = rng.normal(size=(B, T, 2)), rng.normal(size=(num_vectors, 2))
    floats += [queries.astype("float32"), kernel.astype("float32")]

    def run(half_steps, cells, *others):
        *others, queries, kernel = others
        vectors = WordVectors(queries, kernel, words, table_cells)
        return compute_fused_log_probs(half_steps, cells, *others, word_vectors=vectors)

    def run_exactly(half_steps, cells, row_kernel, row_bias, column_kernel, column_bias, *others):
        *table, queries, kernel = others
        row_logits = tf.matmul(half_steps[:, 0::2], row_kernel, transpose_b=True) + row_bias
        log_probs = []
        for b, t in np.ndindex(B, T):
            row, column = divmod(int(cells[b, t]), C)
            logits = tf.linalg.matvec(column_kernel, half_steps[b, 2 * t + 1]) + column_bias
            if table:
                logits += table[0][row]
            logits += tf.stack(
                [
                    tf.tensordot(kernel[word], queries[b, t], 1)
                    if 0 <= word < num_vectors
                    else tf.zeros((), logits.dtype)
                    for word in words[row]
                ]
            )
            row_log_probs = tf.nn.log_softmax(row_logits[b, t])
            log_probs.append(row_log_probs[row] + tf.nn.log_softmax(logits)[column])
        return tf.reshape(tf.stack(log_probs), (B, T))

    received = differentiate(run, cells, upstream, floats)
    doubles = [x.astype("float64") for x in floats]
    exact = differentiate(run_exactly, cells, upstream.astype("float64"), doubles)
    for value, other in zip(received, exact, strict=True):
        assert value == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.usefixtures("max_logits")
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_errs_no_more_than_the_plain_way(rng, scale):
    ours, plain = [], []
    for _ in range(10):
        inputs = make_inputs(rng, scale=scale)
        exact = compute_exactly(*inputs)
        for errors, function in ((ours, compute_fused_log_probs), (plain, compute_plainly)):
            received = differentiate(function, *inputs)
            errors.append([np.abs(v - e).max() for v, e in zip(received, exact, strict=True)])
    rounding = np.finfo("float32").eps * np.array([np.abs(e).max() for e in exact])
    assert (np.mean(ours, axis=0) <= 1.5 * np.mean(plain, axis=0) + rounding).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_only_in_the_factors_of_products(rng, dtype):
    cells, upstream, floats = make_inputs(rng)
    for place in (0, 1, 3):  # what is multiplied, exact in the low type
        floats[place] = np.asarray(tf.cast(tf.cast(floats[place], dtype), "float32"))
    exact = compute_exactly(cells, upstream, floats)

    def run(half_steps, cells, row_kernel, row_bias, column_kernel, *others):
        kernels = tf.cast(row_kernel, dtype), row_bias, tf.cast(column_kernel, dtype)
        return compute_fused_log_probs(half_steps, cells, *kernels, *others)

    log_probs, *gradients = differentiate(run, cells, upstream, floats)
    assert log_probs == pytest.approx(exact[0], rel=1e-5, abs=1e-5)
    for name, value, other in zip(NAMES, gradients, exact[1:], strict=True):
        # The gradients of logits are rounded where they are factors, not in sums for a bias.
        rounding = 1e-6 if "bias" in name else {"bfloat16": 2**-7, "float16": 2**-10}[dtype]
        assert np.abs(value - other).max() <= rounding * np.abs(other).max() + 1e-6, name


def test_no_words(rng):
    """A replica's share of the last batch may be empty."""
    cells, upstream, floats = make_inputs(rng)
    floats[0] = floats[0][:0]
    results = differentiate(compute_fused_log_probs, cells[:0], upstream[:0], floats)
    for value, like in zip(results, [cells[:0], *floats], strict=True):
        assert value.shape == like.shape
        assert not value.any()


def test_no_logits_live_between_the_passes(rng):
    cells, _, floats = make_inputs(rng)
    _, residuals = fused_log_probs._forward([cells, *floats, *[None] * 4])
    assert {tuple(x.shape) for x in tf.nest.flatten(residuals)} == {(B * T,)}
