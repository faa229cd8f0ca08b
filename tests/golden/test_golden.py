"""Files that earlier versions wrote load, and give the numbers that they gave then."""

from __future__ import annotations

import json
import shutil

import golden_models
import keras
import numpy as np
import pytest
import tensorflow as tf
from golden_models import FILES, MODELS, C, R, V, make_vocabulary

from keras_lightrnn import Allocation
from keras_lightrnn.callbacks import TrainingBackup
from keras_lightrnn.data import TokenShards, Vocabulary
from keras_lightrnn.serving import export_saved_model

ANSWERS = json.loads((FILES / "answers.json").read_text("utf-8"))


def assert_close(received, expected, tolerance=2e-5):
    assert np.shape(received) == np.shape(expected)
    assert np.ravel(received) == pytest.approx(np.ravel(expected), rel=tolerance, abs=tolerance)


def check_answers(model, name):
    received, expected = golden_models.answer(model), dict(ANSWERS[name])
    assert sorted(received) == sorted(expected)
    if getattr(model, "mask_zero", False):  # version 0.1 answered padding, word 0, too
        is_word = np.array(expected["next_words"]) != 0
        for key in ("next_words", "next_log_probs"):
            expected[key] = np.array(expected[key])[is_word].reshape(len(is_word), V - 1)
    for key in expected:
        assert_close(received[key], expected[key])


@pytest.mark.parametrize("name", MODELS)
def test_keras_files(name):
    check_answers(keras.models.load_model(FILES / f"{name}.keras"), name)


def test_weights_files():
    model = MODELS["lstm"]()
    model.optimizer.build(model.trainable_variables)  # the file holds its state
    model.load_weights(FILES / "lstm.weights.h5")
    check_answers(model, "lstm")


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_checkpoints(name):
    model = MODELS[name]()
    model.optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    status = checkpoint.read(str(FILES / f"{name}.checkpoint"))
    status.assert_existing_objects_matched()
    check_answers(model, name)


def test_training_goes_on_from_a_backup(tmp_path):
    path = shutil.copy(FILES / "backup.npz", tmp_path)
    assert TrainingBackup(path).epoch == 1
    _, received = golden_models.run_with_backup(path)
    expected = ANSWERS["backup"]
    assert received["cells"] == expected["cells"]
    assert received["num_steps"] == expected["num_steps"]
    for name in ("weights", "costs"):
        assert_close(received[name], expected[name])


def test_allocation_file():
    allocation = Allocation.load(FILES / "allocation.npz")
    assert allocation.shape == (R, C)
    assert allocation.cells.tolist() == ANSWERS["cells"]


def test_vocabulary_and_shards():
    vocabulary = Vocabulary.load(FILES / "vocabulary.txt")
    assert vocabulary.words == make_vocabulary().words
    shards = TokenShards(FILES / "shards", vocabulary)
    assert np.asarray(shards).tolist() == ANSWERS["shards"]
    assert shards.vocabulary_size == V


def test_served_answers(tmp_path):
    model = keras.models.load_model(FILES / "gru.keras")
    path = export_saved_model(model, make_vocabulary(), tmp_path)
    received = golden_models.answer_served(tf.saved_model.load(str(path)))
    expected = ANSWERS["served"]
    for name in ("score_words", "next_words"):
        assert received[name] == expected[name]
    for name in ("score_log_probs", "next_log_probs"):
        assert_close(received[name], expected[name])
