from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from filling import fill_sequentially
from oracle import TwoStepSoftmax

from keras_lightrnn import Allocation, WordTable
from keras_lightrnn.layers import TwoComponentSoftmax

H = 6
TABLES = {
    "full": Allocation.random(12, 3, 4, seed=0),
    "empty cells": Allocation.random(11, 4, 3, seed=1),
    "one row": Allocation.random(5, 1, 7, seed=2),
    "one column": Allocation.random(5, 6, 1, seed=2),
    "an empty row": Allocation([8, 9, 0, 2, 11], 4, 3),
}
tables = pytest.mark.parametrize("allocation", TABLES.values(), ids=list(TABLES))
word_biases = pytest.mark.parametrize("word_bias", [None, "counts", "trainable"])


def make(allocation, word_bias=None, counts=None, **kwargs):
    bias_initializer = keras.initializers.RandomNormal(seed=1)
    kwargs = {"bias_initializer": bias_initializer, "row_reader": None, **kwargs}
    layer = TwoComponentSoftmax(WordTable(allocation), word_bias=word_bias, **kwargs)
    layer.build((None, None, H), (None, None))
    if word_bias is not None:
        size = allocation.vocabulary_size
        layer.assign_word_counts(np.arange(size) ** 2 if counts is None else counts)
    return layer


def make_inputs(rng, vocabulary_size, batch_size=2, length=4):
    half_steps = rng.normal(size=(batch_size, 2 * length, H)).astype("float32")
    return half_steps, rng.integers(vocabulary_size, size=(batch_size, length)).astype("int32")


@tables
@word_biases
@pytest.mark.parametrize("use_bias", [False, True])
def test_equals_the_oracle_word_by_word(rng, allocation, word_bias, use_bias):
    layer = make(allocation, word_bias, use_bias=use_bias)
    half_steps, targets = make_inputs(rng, allocation.vocabulary_size)
    log_probs = np.asarray(layer(half_steps, targets))
    oracle = TwoStepSoftmax.of(layer)
    for b, t in np.ndindex(targets.shape):
        row, _ = oracle.place(targets[b, t])
        expected = oracle.compute_row_log_prob(half_steps[b, 2 * t], row)
        expected += oracle.compute_column_log_prob(half_steps[b, 2 * t + 1], targets[b, t])
        assert log_probs[b, t] == pytest.approx(expected, abs=2e-5)


@tables
@word_biases
def test_probabilities_of_all_words_sum_to_one(rng, allocation, word_bias):
    layer = make(allocation, word_bias)
    size = allocation.vocabulary_size
    # What a row half-step holds may depend on the row that it read, and on nothing else.
    column_half_step = rng.normal(size=H)
    row_half_steps = rng.normal(size=(allocation.num_rows, H))
    pairs = [np.stack([column_half_step, row_half_steps[row]]) for row in allocation.rows]
    log_probs = np.asarray(layer(np.float32(pairs), np.arange(size)[:, None]))[:, 0]
    assert np.exp(log_probs.astype("float64")).sum() == pytest.approx(1, abs=1e-5)


@word_biases
def test_relabelling_words_changes_nothing(rng, word_bias):
    allocation = TABLES["empty cells"]
    size = allocation.vocabulary_size
    counts, new_ids = rng.integers(1, 99, size), rng.permutation(size)
    half_steps, targets = make_inputs(rng, size)
    layer = make(allocation, word_bias, counts)
    before = np.asarray(layer(half_steps, targets))

    new_cells, new_counts = np.empty(size, int), np.empty(size)
    new_cells[new_ids], new_counts[new_ids] = allocation.cells, counts
    layer.word_table.assign(Allocation(new_cells, *allocation.shape))
    if word_bias is not None:
        layer.assign_word_counts(new_counts)
    assert np.asarray(layer(half_steps, new_ids[targets])) == pytest.approx(before, abs=1e-5)
    assert np.asarray(layer(half_steps, targets)) != pytest.approx(before, abs=1e-2)


def test_zero_kernels_are_uniform_over_a_full_table(rng):
    layer = make(TABLES["full"], kernel_initializer="zeros", bias_initializer="zeros")
    log_probs = np.asarray(layer(*make_inputs(rng, 12)))
    assert np.exp(-log_probs) == pytest.approx(12, rel=1e-5)


@tables
def test_zero_kernels_with_word_bias_are_the_unigrams(rng, allocation):
    size = allocation.vocabulary_size
    counts = rng.integers(1, 1000, size)
    layer = make(allocation, "counts", counts, kernel_initializer="zeros", use_bias=False)
    half_steps = rng.normal(size=(1, 2 * size, H)).astype("float32")
    for seed in (None, 7):  # wherever the words lie
        if seed is not None:
            layer.word_table.assign(Allocation.random(size, *allocation.shape, seed=seed))
        probabilities = np.exp(np.asarray(layer(half_steps, np.arange(size)[None]))[0])
        assert probabilities == pytest.approx(counts / counts.sum(), rel=1e-4)


def test_words_that_never_occur_keep_half_an_occurrence(rng):
    layer = make(
        TABLES["full"], "counts", [0, *[10] * 11], kernel_initializer="zeros", use_bias=False
    )
    half_steps, _ = make_inputs(rng, 12)
    log_probs = np.asarray(layer(half_steps, np.zeros((2, 4), int)))
    assert np.exp(log_probs) == pytest.approx(0.5 / 110.5, rel=1e-4)


def test_what_is_trained():
    def names(word_bias):
        return [w.name for w in make(TABLES["full"], word_bias).trainable_weights]

    published = ["row_kernel", "row_bias", "column_kernel", "column_bias"]
    assert names(None) == names("counts") == published
    assert sorted(names("trainable")) == sorted(["word_bias", *published])


@word_biases
def test_gradients_are_those_of_finite_differences(rng, word_bias):
    layer = make(TABLES["an empty row"], word_bias)
    half_steps, targets = make_inputs(rng, 5)

    def compute_loss():
        return -tf.reduce_sum(layer(half_steps, targets))

    with tf.GradientTape() as tape:
        loss = compute_loss()
    variables = [v.value for v in layer.trainable_weights]
    for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
        gradient = tf.convert_to_tensor(gradient)  # slices of looked-up biases, for one
        assert np.isfinite(gradient).all()
        direction = rng.normal(size=variable.shape).astype("float32")
        step, value = 1e-2, np.asarray(variable)
        variable.assign(value + step * direction)
        above = float(compute_loss())
        variable.assign(value - step * direction)
        below = float(compute_loss())
        variable.assign(value)
        expected = (above - below) / (2 * step)
        received = float(tf.reduce_sum(tf.convert_to_tensor(gradient) * direction))
        assert received == pytest.approx(expected, rel=1e-2, abs=1e-2)


def test_row_and_column_weights_are_not_swapped(rng):
    # A square table, where swapped weights have the right shapes.
    layer = make(Allocation.random(9, 3, 3, seed=0), "counts")
    fill_sequentially(layer, layer.word_table, step=0.02)
    half_steps, targets = make_inputs(rng, 9, 1, 1)
    oracle = TwoStepSoftmax.of(layer)
    word = int(targets[0, 0])
    expected = oracle.compute_row_log_prob(half_steps[0, 0], oracle.place(word)[0])
    expected += oracle.compute_column_log_prob(half_steps[0, 1], word)
    assert float(layer(half_steps, targets)[0, 0]) == pytest.approx(expected, abs=2e-5)


def test_float_ids_are_cast(rng):
    layer = make(TABLES["empty cells"])
    half_steps, targets = make_inputs(rng, 11)
    assert np.array_equal(layer(half_steps, targets.astype("float32")), layer(half_steps, targets))


def test_ids_outside_the_vocabulary_are_nan_in_compiled_code(rng):
    layer = make(TABLES["empty cells"], "counts")
    compiled = tf.function(layer, jit_compile=True, autograph=False)
    half_steps, targets = make_inputs(rng, 11)
    for wrong in (-1, 11, 99):
        targets[1, 2] = wrong
        log_probs = np.asarray(compiled(half_steps, targets))
        assert np.argwhere(np.isnan(log_probs)).tolist() == [[1, 2]]
        with pytest.raises(tf.errors.InvalidArgumentError):
            layer(half_steps, targets)


def test_assign_takes_effect_in_compiled_code(rng):
    layer = make(TABLES["empty cells"], "counts")
    compiled = tf.function(layer, jit_compile=True, autograph=False)
    half_steps, targets = make_inputs(rng, 11)
    before = np.asarray(compiled(half_steps, targets))
    layer.word_table.assign(Allocation.random(11, 4, 3, seed=8))
    after = np.asarray(compiled(half_steps, targets))
    assert after == pytest.approx(np.asarray(layer(half_steps, targets)), abs=1e-5)
    assert after != pytest.approx(before, abs=1e-2)


def test_mask_needs_both_half_steps():
    layer = make(TABLES["full"])
    mask = tf.constant([[True, True, False, True, True, False]])
    assert np.asarray(layer.compute_mask(None, mask)).tolist() == [[True, False, False]]
    assert layer.compute_mask(None) is None


def test_a_layer_that_is_observed_can_still_be_built():
    layer, observer = TwoComponentSoftmax(6, row_reader=None), keras.layers.Layer()
    layer.observe(observer)
    layer.build((None, None, 4))
    layer.stop_observing(observer)
    assert layer.built
    assert not layer.observers


class Watcher(keras.layers.Layer):
    """An observer that keeps what it sees in training."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def see(self, make_tensors, training, table):
        if training:
            self.seen.append((table, *make_tensors()))


def test_observers_see_states_and_targets(rng):
    layer, observer = make(TABLES["full"]), Watcher()
    half_steps, targets = make_inputs(rng, 12)
    layer.observe(observer)
    layer(half_steps, targets)
    assert observer.seen == []
    layer(half_steps, targets, training=True)
    [(table, columns, rows, words, mask, share)] = observer.seen
    assert table == 0
    assert np.array_equal(columns, half_steps[:, ::2])
    assert np.array_equal(rows, half_steps[:, 1::2])
    assert np.array_equal(words, targets)
    assert mask is None
    assert share is None
    layer.stop_observing(observer)
    layer(half_steps, targets, training=True)
    assert len(observer.seen) == 1


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([1] * 11, r"each of 12 words.*\(11,\)"),
        ([[1] * 12], r"each of 12 words.*\(1, 12\)"),
        ([0] * 12, "must not all be zero.*12 zeros"),
        ([-1, *[1] * 11], r"not negative.*counts\[0\]=-1"),
        ([np.nan, *[1] * 11], "finite"),
        ([np.inf, *[1] * 11], "finite"),
    ],
)
def test_word_counts_errors(counts, message):
    with pytest.raises(ValueError, match=message):
        make(TABLES["full"], "counts").assign_word_counts(counts)


def test_word_counts_need_a_word_bias():
    with pytest.raises(ValueError, match=r'word_bias=None.*"counts"'):
        make(TABLES["full"]).assign_word_counts(np.ones(12))
    assert make(TABLES["full"]).word_bias_values is None


def test_constructor_and_call_errors(rng):
    with pytest.raises(ValueError, match=r"another word to predict\. Received: mask_zero=True"):
        TwoComponentSoftmax(1, mask_zero=True)
    with pytest.raises(ValueError, match=r"word_bias.*'counts', 'trainable'.*'unigram'"):
        TwoComponentSoftmax(12, word_bias="unigram", row_reader=None)
    with pytest.raises(ValueError, match=r"last axis.*known"):
        TwoComponentSoftmax(12, row_reader=None).build((None, None, None), (None, None))


@pytest.mark.parametrize("row_reader", ["gated", None])
def test_states_of_another_size_than_the_first(row_reader):
    layer = TwoComponentSoftmax(12, row_reader=row_reader)
    layer.build((None, None, H), (None, None))
    length = 4 if row_reader is None else 2
    for make_tensor in (keras.KerasTensor, np.zeros):
        with pytest.raises(ValueError, match=rf"size of those that .* built with, {H}\. Received"):
            layer(make_tensor((3, length, 2 * H)), np.zeros((3, 2), "int32"))


@pytest.mark.parametrize("shapes", [((2, 8, H), (2, 3)), ((2, 7, H), (2, 4)), ((2, 8, H), (2,))])
def test_half_steps_and_targets_must_agree(shapes):
    layer = make(TABLES["full"])
    message = r"targets \(B, T\) need half-steps \(B, 2T, H\)"
    with pytest.raises(ValueError, match=message):
        layer(keras.KerasTensor(shapes[0]), keras.KerasTensor(shapes[1], "int32"))
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(shapes[0], "float32"), np.zeros(shapes[1], "int32"))
