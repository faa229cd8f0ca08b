"""Ranks of targets as an output of a Keras model, and metrics of it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_lightrnn import Allocation, WordTable
from keras_lightrnn.layers import TargetRanks, TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import NDCG, MeanReciprocalRank, RecallAtK

V, H = 23, 5


@pytest.fixture
def model():
    table = WordTable(Allocation.random(V, 5, 6, seed=0))
    embedding = TwoComponentEmbedding(table, 4, combine="gate", mask_zero=True)
    softmax = TwoComponentSoftmax(table, row_reader="gated", mask_zero=True, name="softmax")
    words = keras.Input((None,), dtype="int32")
    targets = words[:, 1:]
    states = keras.layers.GRU(H, return_sequences=True, name="states")(embedding(words[:, :-1]))
    ranks = TargetRanks(softmax, name="ranks")(states, targets)
    model = keras.Model(words, {"log_probs": softmax(states, targets), "ranks": ranks})
    model.compile(
        "sgd",
        loss={"log_probs": NegativeLogLikelihood()},
        weighted_metrics={"ranks": [RecallAtK(4), MeanReciprocalRank(), NDCG()]},
    )
    return model


@pytest.fixture
def windows(rng):
    windows = rng.integers(1, V, size=(6, 8)).astype("int32")
    windows[2, 5:] = 0  # padding
    return windows


def compute_expected(model, windows):
    """Return the mean gains of the targets that are not padding."""
    states = keras.Model(model.input, model.get_layer("states").output)(windows)
    targets = windows[:, 1:]
    ranks = np.asarray(model.get_layer("softmax").compute_ranks(states, targets))
    ranks = ranks[targets > 0]
    assert (ranks > 0).all()
    return [(ranks <= 4).mean(), (1 / ranks).mean(), (1 / np.log2(1 + ranks)).mean()]


def read_logs(logs, prefix=""):
    names = ("recall_at_k", "mean_reciprocal_rank", "ndcg")
    return [logs[f"{prefix}ranks_{name}"] for name in names]


def test_metrics_of_evaluate_and_of_validation(model, windows):
    targets = {"log_probs": windows[:, 1:], "ranks": windows[:, 1:]}
    logs = model.evaluate(windows, targets, batch_size=4, return_dict=True, verbose=0)
    assert read_logs(logs) == pytest.approx(compute_expected(model, windows), rel=1e-5)
    validation = (windows, targets)
    history = model.fit(windows, targets, validation_data=validation, verbose=0).history
    # Steps of training compute no ranks.
    assert np.isnan(read_logs(history)).all()
    received = np.ravel(read_logs(history, "val_"))
    assert received == pytest.approx(compute_expected(model, windows), rel=1e-5)


def test_a_saved_model_has_one_softmax(model, windows, tmp_path):
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("ranks").softmax is loaded.get_layer("softmax")
    for name, expected in model.predict(windows, verbose=0).items():
        assert loaded.predict(windows, verbose=0)[name] == pytest.approx(expected, abs=1e-5)


def test_excluded_words_do_not_count(model, windows):
    softmax = model.get_layer("softmax")
    states = np.random.default_rng(1).normal(size=(3, H)).astype("float32")
    best, _ = softmax.next_words(states, k=3)
    ranks = TargetRanks(softmax)(states, best[:, 2], best[:, :2])
    assert np.asarray(ranks).tolist() == [1, 1, 1]
    for shape in ((3,), (2, 2)):
        with pytest.raises(ValueError, match=r"`excluded` must have the shape \(3, E\)"):
            TargetRanks(softmax)(states, best[:, 2], np.zeros(shape, int))


def test_errors():
    with pytest.raises(ValueError, match="`softmax` must have a row reader"):
        TargetRanks(TwoComponentSoftmax(9, row_reader=None))
    with pytest.raises(TypeError, match="`softmax` must be a `TwoComponentSoftmax`"):
        TargetRanks(keras.layers.Dense(9))


def test_shape_of_ranks():
    layer = TargetRanks(TwoComponentSoftmax(V, row_reader="gated"))
    assert layer.compute_output_shape((None, 7, H), (None, 7)) == (None, 7)


def test_ranks_need_a_built_softmax_and_values():
    softmax = TwoComponentSoftmax(V, row_reader="gated")
    with pytest.raises(ValueError, match="must be built before it is searched"):
        softmax.compute_ranks(np.ones((2, H), "float32"), np.array([1, 2]))
    with pytest.raises(TypeError, match=r"symbolic `KerasTensor` of shape.*TargetRanks"):
        softmax.compute_ranks(keras.Input((H,)), keras.Input((), dtype="int32"))
