"""`model.export` of Keras, which knows nothing of text."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from exportable import MIXTURE, READER, C, R, V, make_model

from keras_lightrnn import Allocation, LightRNNModel

SIGNATURE = [keras.InputSpec(shape=(None, None), dtype="int32", name="words")]


def test_saved_model(model, tmp_path, rng):
    model.export(tmp_path / "model", input_signature=SIGNATURE, verbose=False)
    served = tf.saved_model.load(tmp_path / "model")
    words = rng.integers(V, size=(3, 9)).astype("int32")
    assert served.serve(words).numpy() == pytest.approx(model.score(words), abs=1e-4)


@pytest.mark.parametrize(
    ("recurrence", "options"),
    [
        ("lstm", {"word_bias": None, "cells": np.arange(R * C), "word_dim": 2}),
        ("gru", {**MIXTURE, "mask_zero": True}),
        pytest.param("gru", {"mask_zero": True}, marks=pytest.mark.slow),
        pytest.param("lstm", {**READER, "word_dim": 2}, marks=pytest.mark.slow),
        pytest.param("rnn", {}, marks=pytest.mark.slow),
    ],
    ids=["lstm", "mixture", "gru", "reader", "rnn"],
)
def test_onnx(tmp_path, rng, recurrence, options):
    check_onnx(make_model(recurrence, **options), tmp_path, rng)


def test_onnx_of_several_tables(tmp_path, rng):
    model = LightRNNModel([Allocation.random(V, R, C, seed=seed) for seed in range(2)], 5, 6)
    model.build((2, 5))
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(np.random.default_rng(index).normal(size=weight.shape))
    check_onnx(model, tmp_path, rng)


def check_onnx(model, tmp_path, rng):
    pytest.importorskip("tf2onnx", reason="pip install tf2onnx onnx onnxruntime")
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    path = str(tmp_path / "model.onnx")
    model.export(path, format="onnx", input_signature=SIGNATURE, verbose=False)
    # Keras writes files that no runtime can load and says nothing: only running one tells.
    session = onnxruntime.InferenceSession(path)
    for shape in (3, 9), (1, 4):
        words = rng.integers(model.word_table.vocabulary_size, size=shape).astype("int32")
        (log_probs,) = session.run(None, {"words": words})
        assert log_probs == pytest.approx(model.score(words), abs=1e-4)
