"""`TopWords` inside Keras models."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import Allocation, WordTable
from keras_lightrnn.layers import TopWords, TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood

V, D, H, T = 23, 4, 5, 6


class Layers:
    """A network of layers, and a softmax behind it."""

    def __init__(self, num_tables=1, mask_zero=True):
        shapes = [(5, 6), (6, 4)][:num_tables]
        tables = [
            WordTable(Allocation.random(V, *shape, seed=index), name=f"table_{index}")
            for index, shape in enumerate(shapes)
        ]
        self.words = keras.Input((None,), dtype="int32", name="words")
        embedding = TwoComponentEmbedding(tables, D, combine="gate", mask_zero=mask_zero)
        self.states = keras.layers.GRU(H, return_sequences=True)(embedding(self.words))
        self.softmax = TwoComponentSoftmax(tables, row_reader="gated", mask_zero=mask_zero)
        self.encoder = keras.Model(self.words, self.states)
        self.log_probs = self.softmax(self.states[:, :-1], self.words[:, 1:])
        rng = np.random.default_rng(0)
        for weight in [*self.encoder.trainable_weights, *self.softmax.trainable_weights]:
            weight.assign(rng.normal(size=weight.shape))

    def find(self, words, k, excluded=None):
        """Return the words to follow texts that may be padded on the right."""
        states = np.asarray(self.encoder(words))
        last = np.where(words > 0, np.arange(words.shape[1]), 0).max(axis=1)
        states = states[np.arange(len(words)), last]
        return self.softmax.next_words(states, k=k, excluded=excluded)


@pytest.fixture
def layers():
    return Layers()


@pytest.fixture
def texts(rng):
    words = rng.integers(1, V, size=(4, T)).astype("int32")
    words[1, 3:] = 0  # padding
    return words


@pytest.mark.parametrize("num_tables", [1, 2])
def test_excluded_words_and_k_are_inputs_of_the_model(rng, texts, num_tables):
    layers = Layers(num_tables)
    excluded, k = keras.Input((None,), dtype="int32"), keras.Input((), dtype="int32")
    best = TopWords(layers.softmax, k=6)(layers.states, excluded=excluded, k=k)
    model = keras.Model([layers.words, excluded, k], best)
    left_out, numbers = rng.integers(-1, V, size=(4, 3)), np.array([6, 1, 3, 6])
    words, log_probs = model.predict([texts, left_out, numbers], verbose=0)
    expected, expected_log_probs = layers.find(texts, 6, left_out)
    is_asked = np.arange(6) < numbers[:, None]
    assert words.tolist() == np.where(is_asked, expected, -1).tolist()
    assert log_probs[is_asked] == pytest.approx(expected_log_probs[is_asked], abs=2e-5)
    assert np.isneginf(log_probs[~is_asked]).all()


def test_states_of_one_step_under_xla(layers, rng):
    top = TopWords(layers.softmax, k=4)
    states = rng.normal(size=(3, H)).astype("float32")
    words, _ = tf.function(top, jit_compile=True)(states)
    assert np.asarray(words).tolist() == layers.softmax.next_words(states, k=4)[0].tolist()


def test_a_saved_model_has_one_softmax(layers, texts, tmp_path):
    best = TopWords(layers.softmax, k=4, name="top")(layers.states)
    model = keras.Model(layers.words, [layers.log_probs, *best])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("top").softmax is loaded.get_layer(layers.softmax.name)
    assert len(loaded.weights) == len(model.weights)
    for received, expected in zip(
        loaded.predict(texts, verbose=0), model.predict(texts, verbose=0), strict=True
    ):
        assert received == pytest.approx(expected, abs=1e-5)
    # What is trained answers.
    loaded.compile("sgd", [NegativeLogLikelihood(), None, None])
    loaded.fit(texts, texts[:, 1:], verbose=0)
    assert not np.allclose(loaded.predict(texts, verbose=0)[2], model.predict(texts, verbose=0)[2])


def test_a_model_that_only_answers_is_saved(layers, texts, tmp_path):
    model = keras.Model(layers.words, TopWords(layers.softmax, k=4)(layers.states))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.predict(texts, verbose=0)[0].tolist() == layers.find(texts, 4)[0].tolist()


# Loads SavedModels without the package.
SERVE = """
import os, sys
import numpy as np
import tensorflow as tf
sys.modules["keras_lightrnn"] = None
for folder in sys.argv[1:]:
    os.chdir(folder)
    served = tf.saved_model.load("model")
    data = np.load("request.npz")
    words, log_probs = served.serve([data["words"], data["excluded"]])
    np.savez("answer.npz", words=words, log_probs=log_probs)
"""


def test_exports_are_loaded_without_the_package(texts, tmp_path):
    expected = {}
    for num_tables in (1, 2):
        layers = Layers(num_tables)
        excluded = keras.Input((None,), dtype="int32", name="excluded")
        best = TopWords(layers.softmax, k=4)(layers.states, excluded=excluded)
        model = keras.Model([layers.words, excluded], best)
        folder = tmp_path / f"{num_tables} table(s)"
        model.export(folder / "model", verbose=False)
        left_out = layers.find(texts, 2)[0]
        np.savez(folder / "request.npz", words=texts, excluded=left_out)
        expected[folder] = layers.find(texts, 4, left_out)
    subprocess.run([sys.executable, "-c", SERVE, *expected], check=True, cwd=tmp_path)
    for folder, (words, log_probs) in expected.items():
        with np.load(folder / "answer.npz") as answer:
            assert answer["words"].tolist() == words.tolist()
            assert answer["log_probs"] == pytest.approx(log_probs, abs=2e-5)


def test_errors(layers):
    top = TopWords(layers.softmax, k=3)
    with pytest.raises(ValueError, match=r"`k` must be an integer in \[1, 22\].*k=23"):
        TopWords(layers.softmax, k=23)
    with pytest.raises(ValueError, match="`softmax` must have a row reader"):
        TopWords(TwoComponentSoftmax(9, row_reader=None))
    with pytest.raises(TypeError, match="`softmax` must be a `TwoComponentSoftmax`"):
        TopWords(keras.layers.Dense(9))
    with pytest.raises(ValueError, match=r"`states` must be \(B, H\).*\(3,\)"):
        top(np.zeros(3, "float32"))
    for make_tensor in (keras.KerasTensor, np.zeros):
        with pytest.raises(ValueError, match=rf"built with, {H}\. Received: states.shape=\(2, 3\)"):
            top(make_tensor((2, 3)))
    with pytest.raises(ValueError, match=r"`excluded` must have the shape \(2, E\).*\(2,\)"):
        top(np.zeros((2, H), "float32"), excluded=np.array([1, 2]))
    with pytest.raises(ValueError, match=r"the shape \(2, E\)\..*\(3, 1\)"):
        top(np.zeros((2, H), "float32"), excluded=np.zeros((3, 1), int))
    for k, size in (([1, 2, 3], 1), ([[1, 2], [2, 1]], 2)):
        with pytest.raises(ValueError, match=r"`k` must be a scalar or \(B,\).*k.shape=\("):
            top(np.zeros((size, H), "float32"), k=np.array(k))


def test_errors_of_excluded_words(layers):
    states = np.zeros((2, H), "float32")

    def find(excluded, k=3):
        return layers.softmax.next_words(states, k=k, excluded=excluded)

    assert not np.isin(find([4, 5], k=20)[0], [0, 4, 5]).any()  # of all texts alike
    with pytest.raises(ValueError, match=r"k=21, and 20 words .* of text 1\. Lower `k`"):
        find([[3, 3, -1], [0, 5, 6]], k=21)
    with pytest.raises(ValueError, match=r"\[0, 23\).*the id 23 at position \(1, 0\) \(1 of 4"):
        find([[0, 1], [23, 2]])
    with pytest.raises(ValueError, match=r"shape \(2, E\).*\(3, 1\)"):
        find(np.zeros((3, 1), int))
    with pytest.raises(TypeError, match="integer word ids"):
        find([[0.5], [1.5]])


def test_shape_of_words():
    layer = TopWords(TwoComponentSoftmax(V, row_reader="gated"), k=3)
    assert layer.compute_output_shape((None, 7, H)) == ((None, 3), (None, 3))


def test_symbolic_states_are_for_the_layer(layers):
    with pytest.raises(TypeError, match=r"symbolic `KerasTensor` of shape .*layer `TopWords`"):
        layers.softmax.next_words(layers.states[:, -1])
