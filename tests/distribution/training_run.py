"""Training that must come out alike on one device and on several; the tests run it in processes.

TF_CONFIG=... python training_run.py mirrored|workers results.npz model layers
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
from graphs import prepare_process, trace_without_xla

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn._internal.distribution import run_on_chief
from keras_lightrnn.assignment import ExactSolver
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.data import token_windows
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import Perplexity
from keras_lightrnn.models import MultiWorkerTraining
from keras_lightrnn.reallocation import LikelihoodObjective

V, BATCH_SIZE = 23, 4


def make_words(size: int) -> np.ndarray:
    words = np.random.default_rng(0).integers(V, size=size).astype("int32")
    words[1::2] = (words[:-1:2] * 3 + 1) % V
    return words


def make_optimizer() -> keras.optimizers.Optimizer:
    # It has slots, and a step takes half the time to trace that one with Adam takes.
    return keras.optimizers.SGD(0.1, momentum=0.9)


class MultiWorkerModel(MultiWorkerTraining, keras.Model):
    """A functional model for several workers."""


class SumsRecorder(keras.callbacks.Callback):
    """Keeps what the rounds were made from; comes before the `ReallocationCallback`."""

    def __init__(self, reallocation: ReallocationCallback) -> None:
        super().__init__()
        self.reallocation = reallocation
        self.sums: list[Any] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.sums.append(tuple(self.reallocation._state.statistics.read().values()))


class CountingSolver(ExactSolver):
    num_solved = 0

    def solve(self, *args: Any, **kwargs: Any) -> Any:
        self.num_solved += 1
        return super().solve(*args, **kwargs)


def prepare_model(scope: Any) -> tuple[keras.Model, Any, Any, dict[str, Any]]:
    """A stateful `LightRNNModel` on contiguous windows, padded at the end."""
    with scope:
        model = LightRNNModel(
            Allocation.random(V, 5, 5, seed=1), 6, 6, stateful=True, word_bias="counts"
        )
        model.assign_word_counts(1 + np.arange(V))
        model.compile(make_optimizer())
    windows = token_windows(make_words(BATCH_SIZE * 5 * 4 - 3), BATCH_SIZE, 5)
    # Not built and compiled yet: `fit` must do so for the strategy, and by itself.
    return model, windows, windows.map(lambda window, *_: (window,)), {"validation_data": windows}


def prepare_layers(scope: Any) -> tuple[keras.Model, Any, Any, dict[str, Any]]:
    """A functional model on weighted windows; the last batch, of one, leaves a replica none."""
    with scope:
        table = WordTable(Allocation.random(V, 5, 5, seed=2))
        words = keras.Input((None,), dtype="int32")
        x = TwoComponentEmbedding(table, 6, combine="interleave")(words)
        x = keras.layers.GRU(6, return_sequences=True)(x)
        softmax = TwoComponentSoftmax(table, word_bias="trainable", word_dim=2, row_reader=None)
        model = MultiWorkerModel(words, softmax(x, words[:, 1:]))
        model.compile(
            make_optimizer(), loss=NegativeLogLikelihood(), weighted_metrics=[Perplexity()]
        )
    windows = make_words(25 * 6).reshape(25, 6)
    weights = np.random.default_rng(1).integers(4, size=(25, 5)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((windows, windows[:, 1:], weights))
    return model, dataset.batch(BATCH_SIZE), windows, {}


def train(prepare: Any, strategy: Any) -> dict[str, np.ndarray]:
    keras.utils.set_random_seed(3)
    model, data, inputs, arguments = prepare(
        strategy.scope() if strategy else contextlib.nullcontext()
    )
    solver = CountingSolver()
    reallocation = ReallocationCallback(
        LikelihoodObjective(solver), every="epoch", verbose=0, at_end=True
    )
    recorder = SumsRecorder(reallocation)
    history = model.fit(
        data, epochs=2, callbacks=[recorder, reallocation], verbose=0, **arguments
    ).history
    results = {name: values for name, values in history.items() if "seconds" not in name}
    results |= model.evaluate(data, verbose=0, return_dict=True)
    results["predictions"] = model.predict(inputs, batch_size=None, verbose=0)
    results["num_rounds"], results["num_solved"] = len(reallocation.history), solver.num_solved
    for number, sums in enumerate(recorder.sums):
        for name, values in zip(("column_sums", "row_sums", "counts"), sums, strict=True):
            results[f"{name}_{number}"] = values
    weights = [*model.trainable_weights, *(w for w in model.weights if w.name == "cells")]
    for index, weight in enumerate(weights):
        results[f"weight_{index}_{weight.name}"] = keras.ops.convert_to_numpy(weight)
    return {name: np.asarray(values) for name, values in results.items()}


def train_in_low_precision(strategy: Any) -> list[float]:
    """Return the losses of a stateful model with rounds, which rounding must not tell apart."""
    keras.utils.set_random_seed(3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = LightRNNModel(V, 6, 6, stateful=True, dtype="mixed_float16")
        model.compile(make_optimizer())
    callback = ReallocationCallback("likelihood", every=[1, 2], verbose=0)
    windows = token_windows(make_words(BATCH_SIZE * 5 * 4), BATCH_SIZE, 5)
    losses = model.fit(windows, epochs=4, callbacks=[callback], verbose=0).history["loss"]
    assert len(callback.history) == 2
    return losses


def train_unevenly(strategy: Any) -> list[float]:
    """Return what comes of first batches that two replicas cannot share evenly."""
    keras.utils.set_random_seed(3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = LightRNNModel(V, 6, 6)
        model.compile(make_optimizer())
    windows = make_words(9 * 6).reshape(9, 6)
    some = windows[:3]
    arguments = {"validation_data": (some,), "shuffle": False, "verbose": 0}
    with pytest.MonkeyPatch.context() as context:
        trace_without_xla(context.setattr)  # which would compile for each size of a batch
        history = model.fit(windows, batch_size=3, epochs=2, **arguments).history
        return [
            *history["loss"],
            *history["val_loss"],
            *model.evaluate(some, verbose=0),
            *model.predict(some, verbose=0).ravel(),
        ]


PREPARE = {"model": prepare_model, "layers": prepare_layers}


def compute_results(strategy: Any = None, cases: Iterable[str] = PREPARE) -> dict[str, np.ndarray]:
    return {
        f"{case}/{name}": values
        for case in cases
        for name, values in train(PREPARE[case], strategy).items()
    }


def make_strategy(kind: str) -> Any:
    if kind == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    (device,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def describe_failure_of_chief(strategy: Any) -> str:
    with strategy.scope():
        model = keras.Sequential()

    def fail() -> None:
        raise ValueError("no solution today")

    with pytest.raises((ValueError, RuntimeError)) as info:
        run_on_chief(model, fail)
    return repr(info.value)


def describe_refusals(strategy: Any) -> list[str]:
    with strategy.scope():
        model = LightRNNModel(V, 6, 6, stateful=True)
        model.compile(keras.optimizers.Adam(gradient_accumulation_steps=2))  # made here
    refused = [
        lambda: model.compile(jit_compile=True),
        lambda: model.compile(keras.optimizers.Adam()),
        lambda: model.build((3, 6)),
    ]
    messages = []
    for call in refused:
        with pytest.raises(ValueError) as info:  # noqa: PT011
            call()
        messages.append(str(info.value))
    return messages


def is_compiled_by_xla(strategy: Any) -> bool:
    """Return whether XLA compiles the step of a model that one device saved with XLA."""
    model = LightRNNModel(V, 6, 6)
    model.compile("sgd", jit_compile=True)
    with strategy.scope():
        loaded = LightRNNModel(V, 6, 6)
        loaded.compile_from_config(model.get_compile_config())
    assert model.jit_compile
    return loaded.jit_compile


if __name__ == "__main__":
    _, kind, path, *cases = sys.argv
    prepare_process()
    strategy = make_strategy(kind)
    np.savez(
        path,
        failure=describe_failure_of_chief(strategy),
        refusals=describe_refusals(strategy),
        jit_compile=is_compiled_by_xla(strategy),
        low_precision=train_in_low_precision(strategy),
        uneven=train_unevenly(strategy),
        **compute_results(strategy, cases),
    )
