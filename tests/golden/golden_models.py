"""Models, data and steps that the golden files were made with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.callbacks import ReallocationCallback, TrainingBackup
from keras_lightrnn.data import Vocabulary, token_windows
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import Perplexity
from keras_lightrnn.reallocation import LikelihoodObjective

V, R, C, D, H = 29, 5, 6, 4, 4  # one cell is empty
FILES = Path(__file__).parent / "files"
TEXTS = ["w2 w3 w4", "", "w28 unheard w5 w5 w6"]


def make_allocation() -> Allocation:
    return Allocation.random(V, R, C, seed=3)


def make_vocabulary() -> Vocabulary:
    words = ["<eos>", "<unk>", *(f"w{i}" for i in range(2, V))]
    return Vocabulary(words, counts=range(100, 100 - V, -1))


def make_windows() -> np.ndarray:
    """Return windows `(8, 6)` in which word 0 stands at some ends only."""
    windows = np.random.default_rng(4).integers(1, V, size=(8, 6)).astype("int32")
    windows[0, 4:] = 0
    windows[5, 3:] = 0
    return windows


def make_lstm(**kwargs: Any) -> LightRNNModel:
    arguments = {"num_layers": 2, "dropout": 0.1, "word_bias": "counts", "word_dim": 2}
    published = {"row_reading": "recurrence", "tie_word_vectors": False}  # now not the defaults
    model = LightRNNModel(
        make_allocation(), D, H, mask_zero=True, **published, **arguments, **kwargs
    )
    return prepare(model)


def make_gru() -> LightRNNModel:
    return prepare(
        LightRNNModel(
            make_allocation(),
            D,
            H,
            recurrence="gru",
            word_bias="trainable",
            row_reading="recurrence",
        )
    )


def prepare(model: LightRNNModel) -> LightRNNModel:
    model.build((None, None))
    model.assign_word_counts(np.arange(V, 0, -1))
    model.compile(keras.optimizers.Adam(0.05))
    return model


def make_functional() -> keras.Model:
    table = WordTable(make_allocation())
    words = keras.Input((None,), dtype="int32")
    x = TwoComponentEmbedding(table, D, combine="interleave")(words)
    x = keras.layers.SimpleRNN(H, return_sequences=True)(x)
    x = TwoComponentSoftmax(table, word_bias="trainable", row_reader=None)(x, words[:, 1:])
    model = keras.Model(words, x)
    model.compile(
        keras.optimizers.Adam(0.05), NegativeLogLikelihood(), weighted_metrics=[Perplexity()]
    )
    return model


MODELS = {"lstm": make_lstm, "gru": make_gru, "functional": make_functional}


def train(model: keras.Model, epochs: int) -> list[float]:
    windows = make_windows()
    arguments = {"batch_size": 4, "epochs": epochs, "shuffle": False, "verbose": 0}
    return model.fit(windows, windows[:, 1:], **arguments).history["loss"]


def step_optimizer(model: keras.Model) -> None:
    """Apply gradients that no dropout has a part in."""
    gradients = [
        keras.ops.convert_to_tensor(np.cos(np.arange(v.value.shape.num_elements())).astype("f4"))
        for v in model.trainable_variables
    ]
    shapes = [v.shape for v in model.trainable_variables]
    gradients = [keras.ops.reshape(g, s) for g, s in zip(gradients, shapes, strict=True)]
    model.optimizer.apply(gradients, model.trainable_variables)


def sort_weights(model: keras.Model) -> list[float]:
    """Return every number of the model and of its optimizer, in an order that no code decides."""
    variables = [*model.weights, *model.optimizer.variables]
    values = [keras.ops.convert_to_numpy(v) for v in variables if "float" in str(v.dtype)]
    return np.sort(np.concatenate([np.ravel(v) for v in values]).astype("float64")).tolist()


def answer(model: keras.Model) -> dict[str, Any]:
    """Return what the model computes now, and after another step of training."""
    windows = make_windows()
    answers = {"log_probs": np.asarray(model(windows)).tolist()}
    if isinstance(model, LightRNNModel):
        answers["score"] = model.score(windows).tolist()
        words, log_probs = model.next_words(windows[1:4, :3], k=V - model.mask_zero)
        answers |= {"next_words": words.tolist(), "next_log_probs": log_probs.tolist()}
    step_optimizer(model)
    answers["stepped"] = sort_weights(model)
    if not getattr(model, "dropout", 0):
        answers["loss"] = train(model, 1)
        answers["trained"] = sort_weights(model)
    return answers


def answer_served(served: Any) -> dict[str, Any]:
    """Return the answers of a SavedModel to `TEXTS`."""
    import tensorflow as tf

    texts, signatures = tf.constant(TEXTS), served.signatures
    score = signatures["score"](text=texts)
    best = signatures["next_words"](text=texts, k=tf.constant(5))
    return {
        "score_log_probs": score["log_probs"].numpy().tolist(),
        "score_words": [[w.decode() for w in words] for words in score["words"].numpy()],
        "next_words": [[w.decode() for w in words] for words in best["words"].numpy()],
        "next_log_probs": best["log_probs"].numpy().tolist(),
    }


class Interruption(keras.callbacks.Callback):
    """Ends a run by an exception after some train steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.steps -= 1
        if self.steps == 0:
            raise InterruptedError


def run_with_backup(path: Path, interruption: int = 0) -> tuple[LightRNNModel, dict[str, Any]]:
    """Train a stateful model with rounds every 4 of 12 steps, from the backup if there is one."""
    keras.utils.set_random_seed(6)
    words = np.random.default_rng(7).integers(V, size=4 * 5 * 6 + 4)
    model = LightRNNModel(
        make_allocation(), D, H, stateful=True, word_bias="counts", row_reading="recurrence"
    )
    model.build((4, 6))
    model.assign_word_counts(np.arange(V, 0, -1))
    model.compile(keras.optimizers.Adam(0.05))
    rounds = ReallocationCallback(LikelihoodObjective("exact"), every=4, verbose=0)
    callbacks = [rounds, TrainingBackup(path, every_steps=2), Interruption(interruption)]
    windows = token_windows(words, 4, 5, contiguous=True)
    model.fit(windows, epochs=2, callbacks=callbacks, verbose=0)
    return model, {
        "weights": sort_weights(model),
        "cells": model.word_table.allocation.cells.tolist(),
        "costs": [record["cost"] for record in rounds.history],
        "num_steps": rounds.num_steps,
    }
