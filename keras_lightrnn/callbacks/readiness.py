"""Checks of a model before its training begins."""

from __future__ import annotations

import keras


def check_ready(model: keras.Model, what: str, *layers: keras.Layer) -> None:
    """Raise `ValueError` unless a model has its weights and its optimizer.

    Args:
        model: The Keras model.
        what: String, the subject of the message.
        *layers: Layers of the model that must be built too, because a model that overrides `build`
            may be marked as built before its layers are.

    Example:

    >>> check_ready(keras.Sequential([keras.layers.Dense(1)]), "A backup")
    Traceback (most recent call last):
        ...
    ValueError: A backup needs a built model. Received: a model without weights. Call it on a \
batch, or call `model.build`, before `fit`.
    """
    if not all(layer.built for layer in (model, *layers)):
        raise ValueError(
            f"{what} needs a built model. Received: a model without weights. Call it on a batch, "
            "or call `model.build`, before `fit`."
        )
    if not model.compiled:
        raise ValueError(
            f"{what} needs a compiled model, because optimizer state moves with the weights. "
            "Received: a model that is not compiled. Call `model.compile` with the optimizer, in a "
            "custom training loop too."
        )
