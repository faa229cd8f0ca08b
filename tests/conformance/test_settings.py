"""Global settings of Keras and TensorFlow under which everything must go on working."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import V, make_table, make_windows

from keras_lightrnn import LightRNNModel
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import Perplexity


def make_functional(**kwargs):
    table, words = make_table(), keras.Input((None,), dtype="int32")
    x = TwoComponentEmbedding(table, 5, **kwargs)(words[:, :-1])
    x = keras.layers.GRU(6, return_sequences=True, **kwargs)(x)
    x = TwoComponentSoftmax(table, word_dim=2, **kwargs)(x, words[:, 1:])
    model = keras.Model(words, x)
    model.compile("adam", NegativeLogLikelihood(), weighted_metrics=[Perplexity()])
    return model


def make_whole(**kwargs):
    model = LightRNNModel(make_table(), 5, 6, **kwargs)
    model.compile("sgd")
    return model


MODELS = {
    "lstm": lambda **kw: make_whole(mask_zero=True, **kw),
    "gru": lambda **kw: make_whole(recurrence="gru", word_dim=2, **kw),
    "rnn": lambda **kw: make_whole(recurrence="rnn", dropout=0.1, **kw),
    "keras path": lambda **kw: make_whole(recurrence_path="keras", **kw),
    "functional": make_functional,
}


def use(model):
    """Train and use a model."""
    windows = make_windows()
    history = model.fit(windows, verbose=0).history
    assert all(np.isfinite(float(history[name][0])) for name in ("loss", "perplexity"))
    if isinstance(model, LightRNNModel):
        assert np.isfinite(model.score(windows)).all()
        assert model.next_words(windows, k=3)[0].max() < V


@pytest.fixture
def floatx(request):
    before = keras.config.floatx()
    keras.config.set_floatx(request.param)
    yield
    keras.config.set_floatx(before)


@pytest.mark.parametrize(
    ("floatx", "dtype", "name"),
    [
        ("float64", None, "lstm"),
        ("float64", None, "gru"),
        ("float64", "float32", "rnn"),
        ("float64", None, "functional"),
        ("float16", None, "gru"),
        ("float16", "float32", "lstm"),
        ("float16", None, "keras path"),
        # TensorFlow has no orthogonal initializer in bfloat16.
        ("bfloat16", "float32", "functional"),
    ],
    indirect=["floatx"],
)
@pytest.mark.usefixtures("floatx")
def test_floatx(dtype, name):
    use(MODELS[name](dtype=dtype))


@pytest.mark.parametrize("name", ["lstm", "gru", "keras path", "functional"])
def test_functions_run_eagerly(name):
    tf.config.run_functions_eagerly(True)
    try:
        use(MODELS[name](dtype="mixed_bfloat16"))
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("name", ["lstm", "functional"])
def test_check_numerics(name):
    tf.debugging.enable_check_numerics()
    try:
        use(MODELS[name](dtype="mixed_bfloat16"))
    finally:
        tf.debugging.disable_check_numerics()
