"""What streams that are not as they should be do to training."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.data import token_windows
from keras_lightrnn.reallocation import LikelihoodObjective

V = 12


def make_model(**kwargs):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(Allocation.random(V, 3, 4, seed=0), 5, 6, **kwargs)
    model.compile(keras.optimizers.SGD(0.5))  # half as much to trace as Adam
    return model


class RecordingObjective(LikelihoodObjective):
    sums = ("column_sums", "row_sums", "following_sums")

    def propose(self, sums, weights, allocation, prices=None):
        self.received = sums
        return super().propose(sums, weights, allocation, prices)


def collect_sums(model, *args, data=None, **kwargs):
    """Return the sums that a round is made from, of an epoch or of a pass over `data`."""
    objective = RecordingObjective("greedy")
    callback = ReallocationCallback(objective, minimum_gain=1e9, data=data, verbose=0, at_end=True)
    model.fit(*args, callbacks=[callback], verbose=0, **kwargs)
    return objective.received


def check_counts(sums, targets, weights):
    """Compare with weights `(B, T)`; the last word of each window has no state after it."""
    for name, length in (("counts", None), ("following_counts", -1)):
        words, factors = targets[:, :length].ravel(), weights[:, :length].ravel()
        expected = np.bincount(words, factors, minlength=V)
        assert sums[name].tolist() == expected.tolist(), name


@pytest.fixture
def frozen():
    """A model that stays as it is, so that a pass after an epoch sees the same states."""
    model = make_model()
    model.optimizer.learning_rate = 0.0
    return model


def test_words_count_as_often_as_their_weights_say(rng, frozen):
    windows = rng.integers(V, size=(6, 5)).astype("int32")
    weights = rng.integers(3, size=(6, 4)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((windows, windows[:, 1:], weights)).batch(2)
    of_epoch = collect_sums(frozen, data)
    check_counts(of_epoch, windows[:, 1:], weights)
    of_pass = collect_sums(frozen, windows[:2], data=data)
    for name, values in of_epoch.items():
        np.testing.assert_allclose(of_pass[name], values, atol=1e-5, err_msg=name)


def test_one_weight_for_each_window(rng, frozen):
    windows = rng.integers(V, size=(4, 5))  # as many windows as targets in each
    weights = np.array([0.0, 1.0, 2.0, 3.0])
    sums = collect_sums(frozen, windows, windows[:, 1:], sample_weight=weights)
    check_counts(sums, windows[:, 1:], np.repeat(weights[:, None], 4, axis=1))


def test_padding_leaves_the_sums_alone(rng):
    """A stream of which the last window is mostly padding gives the sums of its words."""
    words = rng.integers(V, size=4 * 5 * 2 - 7)
    sums = collect_sums(make_model(stateful=True), token_windows(words, 4, 5))
    assert sums["counts"].tolist() == np.bincount(words[1:], minlength=V).tolist()


def test_masked_words_do_not_count(rng):
    windows = rng.integers(1, V, size=(4, 6))
    windows[1, 3:] = windows[2, 5:] = 0
    sums = collect_sums(make_model(mask_zero=True), windows)
    check_counts(sums, windows[:, 1:], windows[:, 1:] != 0)


def test_a_model_without_the_callback_has_its_own_steps_again(rng):
    model, windows = make_model(), rng.integers(V, size=(4, 6))
    collect_sums(model, windows, data=windows)
    assert not {"train_step", "test_step"} & set(vars(model))


def test_a_nan_loss_is_no_reason_to_move_words(rng):
    model = make_model()
    model.optimizer.learning_rate = float("nan")
    before = model.word_table.allocation
    with pytest.raises(ValueError, match=r"finite sums.*Table and weights are unchanged"):
        collect_sums(model, np.repeat(rng.integers(V, size=(4, 6)), 16, axis=0))
    assert model.word_table.allocation == before


def test_one_word_sentences():
    model = make_model()
    lines = np.zeros(10, np.int32)  # nothing but ends
    sums = collect_sums(model, token_windows(lines, 4, 5, contiguous=False, end_id=0))
    assert sums["counts"].tolist() == [10] + [0] * (V - 1)


@pytest.mark.parametrize("bad", [V, -1])
def test_a_wrong_id_in_the_middle_of_an_epoch(rng, bad):
    """It is an error or a NaN loss, never the word of another id."""
    model = make_model()
    windows = rng.integers(V, size=(8, 5)).astype("int32")
    windows[5, 3] = bad
    data = tf.data.Dataset.from_tensor_slices((windows,)).batch(2)
    try:
        losses = model.fit(data, verbose=0).history["loss"]
    except tf.errors.InvalidArgumentError:
        return  # a gather that is not compiled
    assert np.isnan(losses).all()


@pytest.mark.parametrize("words", [[], [3]])
def test_empty_streams_are_refused(words):
    with pytest.raises(ValueError, match="at least 2 words"):
        token_windows(np.array(words, np.int32), 2, 3)


def test_same_seed_same_weights_to_the_bit(rng):
    windows = rng.integers(V, size=(32, 6))
    windows[:, 1::2] = (windows[:, :-1:2] * 3 + 1) % V
    results = []
    for _ in range(2):
        model = make_model(dropout=0.2)
        model.compile(keras.optimizers.Adam(0.02))
        callback = ReallocationCallback(verbose=0)
        model.fit(windows, batch_size=8, epochs=2, callbacks=[callback], verbose=0)
        assert callback.history[0]["moved"] > 0
        results.append([keras.ops.convert_to_numpy(weight) for weight in model.weights])
    for first, second in zip(*results, strict=True):
        assert np.array_equal(first, second)
