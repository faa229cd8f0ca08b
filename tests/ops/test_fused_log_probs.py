from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from graphs import trace_without_xla

from keras_lightrnn.ops import (
    BiasTerm,
    VectorTerm,
    compute_bias_table,
    compute_fused_log_probs,
    compute_row_offsets,
    compute_word_log_probs,
    fused_log_probs,
    invert_cells,
)
from keras_lightrnn.ops.half_steps import split_half_steps

B, T, H, R, C = 3, 4, 5, 7, 6
V = R * C - 9
NAMES = ["half_steps", "row_kernel", "row_bias", "column_kernel", "column_bias", "bias"]
# Of the words, the last row and three more cells being empty.
CELLS = np.random.default_rng(0).permutation((R - 1) * C)[:V].astype("int32")
WORDS = np.asarray(invert_cells(CELLS, R, C))


@functools.cache
def make_op(limits):
    """Return an op of its own for these limits, which compiled programs are not told apart by."""
    return fused_log_probs.compile_op(fused_log_probs._forward, fused_log_probs._backward)


@pytest.fixture(
    params=[(2**21, 2**22), (2**21, 0), (40, 2**22), (40, 0)],
    ids=["one chunk", "one chunk, again", "padded chunks", "padded chunks, again"],
)
def limits(request, monkeypatch):
    """Set the size of chunks, and how many probabilities are kept and not computed again."""
    monkeypatch.setattr(fused_log_probs, "_MAX_LOGITS", request.param[0])
    monkeypatch.setattr(fused_log_probs, "_MAX_KEPT", request.param[1])
    monkeypatch.setattr(fused_log_probs, "_run", make_op(request.param))


def make_inputs(rng, with_bias=True, scale=1.0, length=T):
    """Return cells, the upstream gradient, and the float inputs in order."""
    shapes = [(B, 2 * length, H), (R, H), (R,), (C, H), (C,), (V,)]
    floats = [(scale * rng.normal(size=shape)).astype("float32") for shape in shapes]
    words = rng.integers(V, size=(B, length))
    words[-1] = words[0]  # which occur again
    upstream = rng.normal(size=(B, length)).astype("float32")
    return CELLS[words], upstream, floats if with_bias else floats[:-1]


def run(
    half_steps, cells, row_kernel, row_bias, column_kernel, column_bias, *bias, is_bias_fixed=False
):
    terms = []
    if bias:
        terms = [BiasTerm(bias[0], not is_bias_fixed)]
        offsets = compute_row_offsets(bias[0], WORDS)
        row_bias = row_bias + (tf.stop_gradient(offsets) if is_bias_fixed else offsets)
    return run_op(half_steps, cells, row_kernel, row_bias, column_kernel, column_bias, terms)


def run_op(half_steps, cells, row_kernel, row_bias, column_kernel, column_bias, terms):
    """Run the op with one component."""
    queries = [x[:, :, None] for x in split_half_steps(half_steps)]
    weights = row_kernel, row_bias, column_kernel, column_bias
    log_probs = compute_fused_log_probs(*queries, cells, *weights, WORDS, CELLS, terms)
    return log_probs[..., 0]


def compute_exactly(cells, upstream, floats):
    """Log-probabilities and gradients of their sum with `upstream`, word by word in float64."""
    floats = [np.asarray(x, "float64") for x in floats]
    half_steps, row_kernel, row_bias, column_kernel, column_bias, *bias = floats
    log_probs, gradients = np.zeros(cells.shape), [np.zeros(x.shape) for x in floats]
    rows_of_words = CELLS // C
    for b, t in np.ndindex(cells.shape):
        row, column = divmod(int(cells[b, t]), C)
        for place, kernel, classes_bias, picked, first in (
            (2 * t, row_kernel, row_bias, row, 1),
            (2 * t + 1, column_kernel, column_bias, column, 3),
        ):
            h = half_steps[b, place]
            weights = np.exp(kernel @ h + classes_bias)
            if bias:  # what has no word has no weight
                factors = np.zeros(len(weights))
                for word, value in enumerate(bias[0]):
                    if first == 1:
                        factors[rows_of_words[word]] += np.exp(value)
                    elif rows_of_words[word] == row:
                        factors[CELLS[word] % C] = np.exp(value)
                weights *= factors
            probabilities = weights / weights.sum()
            log_probs[b, t] += np.log(probabilities[picked])
            d_logits = -upstream[b, t] * probabilities
            d_logits[picked] += upstream[b, t]
            gradients[0][b, place] += d_logits @ kernel
            gradients[first] += np.outer(d_logits, h)
            gradients[first + 1] += d_logits
            for word in range(V if bias else 0):
                other, column_of_word = divmod(int(CELLS[word]), C)
                if first == 1:
                    share = np.exp(bias[0][word]) / factors[other]
                    gradients[5][word] += d_logits[other] * share
                elif other == row:
                    gradients[5][word] += d_logits[column_of_word]
    return [log_probs, *gradients]


def differentiate(function, cells, upstream, floats):
    floats = [tf.constant(x) for x in floats]
    with tf.GradientTape() as tape:
        tape.watch(floats)
        log_probs = function(floats[0], cells, *floats[1:])
        loss = tf.reduce_sum(log_probs * upstream)
    gradients = tape.gradient(loss, floats)
    return [np.asarray(tf.convert_to_tensor(x)) for x in (log_probs, *gradients)]


def compute_plainly(half_steps, cells, row_kernel, row_bias, column_kernel, column_bias, bias):
    row_logits = tf.matmul(half_steps[:, 0::2], row_kernel, transpose_b=True) + row_bias
    column_logits = tf.matmul(half_steps[:, 1::2], column_kernel, transpose_b=True) + column_bias
    column_logits += compute_bias_table(bias, tf.gather(WORDS, cells // C))
    return compute_word_log_probs(
        row_logits + compute_row_offsets(bias, WORDS), column_logits, cells
    )


# Fewer words than rows, and more.
lengths = pytest.mark.parametrize("length", [1, T])


@pytest.mark.usefixtures("limits")
@lengths
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_two_softmaxes_word_by_word(rng, with_bias, length):
    inputs = make_inputs(rng, with_bias, length=length)
    received = differentiate(run, *inputs)
    for value, exact in zip(received, compute_exactly(*inputs), strict=True):
        assert value == pytest.approx(exact, rel=1e-5, abs=1e-5)


def test_a_fixed_bias_has_no_gradient_and_changes_no_other(rng):
    inputs = make_inputs(rng)
    trained = differentiate(run, *inputs)
    with tf.GradientTape() as tape:
        floats = [tf.constant(x) for x in inputs[2]]
        tape.watch(floats)
        log_probs = run(floats[0], inputs[0], *floats[1:], is_bias_fixed=True)
    *others, bias = tape.gradient(log_probs, floats, inputs[1])
    assert bias is None
    for value, other in zip([log_probs, *others], trained, strict=False):
        assert np.array_equal(value, other)


@functools.cache
def make_word_vectors(with_bias, num_vectors, length):
    """Return inputs with word vectors, and the exact log-probabilities and gradients."""
    rng = np.random.default_rng(0)
    cells, upstream, floats = make_inputs(rng, with_bias, length=length)
    queries, kernel = rng.normal(size=(B, length, 2)), rng.normal(size=(num_vectors, 2))
    floats += [queries.astype("float32"), kernel.astype("float32")]

    def run_exactly(half_steps, cells, row_kernel, row_bias, column_kernel, column_bias, *others):
        *bias, queries, kernel = others
        log_probs = []
        for b, t in np.ndindex(B, length):
            row, column = divmod(int(cells[b, t]), C)
            row_logits = tf.linalg.matvec(row_kernel, half_steps[b, 2 * t]) + row_bias
            logits = tf.linalg.matvec(column_kernel, half_steps[b, 2 * t + 1]) + column_bias
            in_row = [word for word in range(V) if CELLS[word] // C == row]
            logits = {word: logits[CELLS[word] % C] for word in in_row}
            for word in in_row:
                if bias:
                    logits[word] += bias[0][word]
                if word < num_vectors:
                    logits[word] += tf.tensordot(kernel[word], queries[b, t], 1)
            rows = sorted({int(cell) // C for cell in CELLS})
            row_logits = {i: row_logits[i] for i in rows}
            if bias:
                for i in rows:
                    own = [bias[0][word] for word in range(V) if CELLS[word] // C == i]
                    row_logits[i] += tf.reduce_logsumexp(tf.stack(own))
            log_probs.append(
                row_logits[row]
                - tf.reduce_logsumexp(tf.stack(list(row_logits.values())))
                + logits[int(WORDS[row, column])]
                - tf.reduce_logsumexp(tf.stack(list(logits.values())))
            )
        return tf.reshape(tf.stack(log_probs), (B, length))

    doubles = [x.astype("float64") for x in floats]
    exact = differentiate(run_exactly, cells, upstream.astype("float64"), doubles)
    return cells, upstream, floats, exact


@pytest.mark.usefixtures("limits")
@lengths
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("num_vectors", [V, 10])
def test_word_vectors_equal_logits_word_by_word(with_bias, num_vectors, length):
    cells, upstream, floats, exact = make_word_vectors(with_bias, num_vectors, length)

    def run(half_steps, cells, *others):
        *others, queries, kernel = others
        bias = others.pop() if with_bias else None
        others[1] = others[1] + compute_row_offsets(bias, WORDS)
        terms = [BiasTerm(bias), VectorTerm(kernel, queries[:, :, None])]
        return run_op(half_steps, cells, *others, terms)

    received = differentiate(run, cells, upstream, floats)
    for value, other in zip(received, exact, strict=True):
        assert value == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_errs_no_more_than_the_plain_way(rng, scale):
    ours, plain = [], []
    for _ in range(10):
        inputs = make_inputs(rng, scale=scale)
        exact = compute_exactly(*inputs)
        for errors, function in ((ours, run), (plain, compute_plainly)):
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

    def run_low(half_steps, cells, row_kernel, row_bias, column_kernel, *others):
        kernels = tf.cast(row_kernel, dtype), row_bias, tf.cast(column_kernel, dtype)
        return run(half_steps, cells, *kernels, *others)

    log_probs, *gradients = differentiate(run_low, cells, upstream, floats)
    assert log_probs == pytest.approx(exact[0], rel=1e-5, abs=1e-5)
    for name, value, other in zip(NAMES, gradients, exact[1:], strict=True):
        # The gradients of logits are rounded where they are factors, not in sums for a bias.
        rounding = 1e-6 if "bias" in name else {"bfloat16": 2**-7, "float16": 2**-10}[dtype]
        assert np.abs(value - other).max() <= rounding * np.abs(other).max() + 1e-6, name


@pytest.mark.parametrize("is_compiled", [True, False])
def test_no_words(is_compiled, monkeypatch, rng):
    """A replica's share of the last batch may be empty."""
    if not is_compiled:
        trace_without_xla(monkeypatch.setattr)
    cells, upstream, floats = make_inputs(rng)
    floats[0] = floats[0][:0]
    results = differentiate(run, cells[:0], upstream[:0], floats)
    for value, like in zip(results, [cells[:0], *floats], strict=True):
        assert value.shape == like.shape
        assert not value.any()


def test_the_size_of_a_batch_may_be_unknown(rng):
    sizes = {"half_steps": (None, 2 * T, H), "cells": (None, T)}
    specs = [tf.TensorSpec(sizes["half_steps"]), tf.TensorSpec(sizes["cells"], tf.int32)]
    cells, upstream, floats = make_inputs(rng)
    compiled = tf.function(lambda x, y: run(x, y, *floats[1:]), input_signature=specs)
    expected = compute_exactly(cells, upstream, floats)[0]
    for size in (1, B):
        log_probs = compiled(floats[0][:size], cells[:size])
        assert np.asarray(log_probs) == pytest.approx(expected[:size], rel=1e-5, abs=1e-5)


def test_the_gradient_may_know_the_size_of_a_batch_where_the_function_does_not(rng):
    cells, upstream, (half_steps, *weights) = make_inputs(rng, with_bias=False)
    queries = [tf.reshape(x, (B * T, 1, H)) for x in split_half_steps(half_steps)]
    each = [*queries, tf.reshape(cells, (-1,))]
    upstream = tf.constant(upstream.reshape(B * T, 1))

    def hide_size(x):
        return tf.raw_ops.PlaceholderWithDefault(input=x, shape=(None, *x.shape[1:]))

    @tf.function(autograph=False)
    def differentiate(is_known, is_known_to_gradient):
        known, unknown = (
            [*tensors, *weights, None, None] for tensors in (each, [hide_size(x) for x in each])
        )
        _, kept = fused_log_probs._forward(known if is_known else unknown, ())
        inputs = known if is_known_to_gradient else unknown
        gradients = fused_log_probs._backward(inputs, kept, [upstream], ())
        return [x for x in gradients if x is not None]

    expected = differentiate(True, True)
    for is_known, is_known_to_gradient in [(False, True), (True, False), (False, False)]:
        gradients = differentiate(is_known, is_known_to_gradient)
        for gradient, value in zip(gradients, expected, strict=True):
            assert np.asarray(gradient) == pytest.approx(np.asarray(value), rel=1e-4, abs=1e-5)


def test_the_number_of_chunks_does_not_overflow():
    size, num_columns, num_vectors = 40_000, 1_000, 128  # of the one int32 can hold, over 2**32
    vectors = np.zeros((1, 1, num_vectors))
    weights = fused_log_probs._Weights(
        np.zeros((num_columns, 1)), None, [vectors], [VectorTerm], [True]
    )
    words = fused_log_probs._Words(np.zeros((1, 1, 1)), None)

    @tf.function(input_signature=[tf.TensorSpec((None,))])
    def count(array):
        return tf.shape(fused_log_probs._split([array], words, weights)[0])

    num_chunks, chunk = np.asarray(count(np.zeros(size, np.float32)))
    words_at_once = fused_log_probs._MAX_LOGITS // (num_columns * num_vectors)
    assert num_chunks == 1 + size // words_at_once
    assert size <= num_chunks * chunk < size + num_chunks


def test_few_probabilities_and_no_logits_live_between_the_passes(rng, monkeypatch):
    cells, _, floats = make_inputs(rng, with_bias=False)
    half_steps, *weights = floats
    queries = [x[:, :, None] for x in split_half_steps(half_steps)]
    inputs = [*queries, cells, *weights, None, None]
    sides = [(B * T, 1, R)], [(B * T, 1, C)]
    normalisers = [(B * T, 1)] * 2
    for limit, shapes in [
        (B * T * R, sides),
        (B * T * C, (normalisers, sides[1])),
        (0, (normalisers, normalisers)),
    ]:
        monkeypatch.setattr(fused_log_probs, "_MAX_KEPT", limit)
        _, residuals = fused_log_probs._forward(inputs, ())
        assert [[tuple(x.shape) for x in side] for side in residuals] == list(shapes)


@pytest.mark.usefixtures("limits")
def test_components_equal_calls_with_one_component(rng):
    cells, _, floats = make_inputs(rng)
    _, *weights, bias = floats
    row_queries, column_queries = rng.normal(size=(2, B, T, 3, H)).astype("float32")
    term_queries = rng.normal(size=(B, T, 3, 2)).astype("float32")
    vectors = rng.normal(size=(V, 2)).astype("float32")
    inputs = [row_queries, column_queries, *weights, bias, vectors, term_queries]
    upstream = rng.normal(size=(B, T, 3)).astype("float32")

    def run_all(row_queries, cells, column_queries, *others):
        *weights, bias, vectors, term_queries = others
        terms = [BiasTerm(bias), VectorTerm(vectors, term_queries)]
        return compute_fused_log_probs(
            row_queries, column_queries, cells, *weights, WORDS, CELLS, terms
        )

    def run_each(row_queries, cells, column_queries, *others):
        *weights, bias, vectors, term_queries = others
        log_probs = []
        for k in range(3):
            terms = [BiasTerm(bias), VectorTerm(vectors, term_queries[:, :, k : k + 1])]
            queries = [x[:, :, k : k + 1] for x in (row_queries, column_queries)]
            log_probs.append(
                compute_fused_log_probs(*queries, cells, *weights, WORDS, CELLS, terms)
            )
        return tf.concat(log_probs, axis=-1)

    received = differentiate(run_all, cells, upstream, inputs)
    expected = differentiate(run_each, cells, upstream, inputs)
    for value, other in zip(received, expected, strict=True):
        assert value == pytest.approx(other, rel=1e-5, abs=1e-5)


def test_one_row_more_is_laid_out_than_words_are_predicted(rng):
    cells, _, _ = make_inputs(rng, length=1)
    places, rows = fused_log_probs._number_rows(cells.ravel() // C, R)
    occurring = sorted(set((cells // C).ravel().tolist()))
    assert rows.shape == (cells.size + 1,)
    assert np.asarray(rows)[: len(occurring)].tolist() == occurring
    assert [int(places[row]) for row in occurring] == list(range(len(occurring)))
    assert sorted(np.flatnonzero(np.asarray(places) < 0)) == [
        row for row in range(R) if row not in occurring
    ]
