"""Ways to bring the weights of a model into another one by a file."""

from __future__ import annotations

from pathlib import Path

import keras
import tensorflow as tf

WAYS = ("weights", "checkpoint")


def bring_weights(way: str, model: keras.Model, other: keras.Model, folder: Path) -> None:
    """Save the weights of `model` in a folder and load them into `other`, each of them."""
    if way == "weights":
        model.save_weights(folder / "a.weights.h5")
        other.load_weights(folder / "a.weights.h5")
    else:
        path = tf.train.Checkpoint(model=model).save(folder / "checkpoint")
        tf.train.Checkpoint(model=other).restore(path).assert_consumed()
