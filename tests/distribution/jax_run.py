"""Training on JAX, on one device and on two; the test runs it in a process of its own.

XLA_FLAGS=--xla_force_host_platform_device_count=2 KERAS_BACKEND=jax python jax_run.py results.npz
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import keras
import numpy as np

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.reallocation import LikelihoodObjective

V = 23


def train(distribution: Any) -> dict[str, np.ndarray]:
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(3)
    words = np.random.default_rng(0).integers(V, size=48 * 6)
    words[1::2] = (words[:-1:2] * 3 + 1) % V
    windows = words.reshape(48, 6)
    weights = np.random.default_rng(1).integers(3, size=(48, 5)).astype("float32")
    model = LightRNNModel(
        Allocation.random(V, 5, 5, seed=1), 6, 6, stateful=True, word_bias="counts", word_dim=2
    )
    model.assign_word_counts(1 + np.arange(V))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))  # with slots, and little to compile
    reallocation = ReallocationCallback(
        LikelihoodObjective("exact"), every="epoch", verbose=0, at_end=True
    )
    arguments = {"batch_size": 8, "verbose": 0}
    history = model.fit(
        windows,
        windows[:, 1:],
        sample_weight=weights,
        shuffle=False,
        epochs=2,
        callbacks=[reallocation],
        **arguments,
    ).history
    results = {name: values for name, values in history.items() if "seconds" not in name}
    results["evaluation"] = model.evaluate(windows, **arguments)
    results["predictions"] = model.predict(windows, **arguments)
    results["cells"] = model.word_table.allocation.cells
    for index, weight in enumerate(model.trainable_weights):
        results[f"weight_{index}"] = keras.ops.convert_to_numpy(weight)
    return {name: np.asarray(values) for name, values in results.items()}


if __name__ == "__main__":
    assert jax.device_count() == 2
    one, two = train(None), train(keras.distribution.DataParallel())
    np.savez(
        sys.argv[1],
        **{f"one/{name}": values for name, values in one.items()},
        **{f"two/{name}": values for name, values in two.items()},
    )
