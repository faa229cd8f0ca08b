"""What callbacks ask of a model before its training begins."""

from __future__ import annotations

from typing import Any


def check_ready(model: Any, what: str, *layers: Any) -> None:
    """Raise `ValueError` unless a model has its weights and its optimizer.

    Args:
        model: The Keras model.
        what: String, what needs them.
        *layers: Layers of it that must have theirs: a model with a `build` of its own may say that
            it is built before they are.

    Example:

    >>> import keras
    >>> check_ready(keras.Sequential([keras.layers.Dense(1)]), "A backup")
    Traceback (most recent call last):
        ...
    ValueError: A backup needs a model that is built. Received: a model without weights. Call it \
on a batch, or `model.build`, before `fit`.
    """
    if not all(layer.built for layer in (model, *layers)):
        raise ValueError(
            f"{what} needs a model that is built. Received: a model without weights. Call it on a "
            "batch, or `model.build`, before `fit`."
        )
    if not model.compiled:
        raise ValueError(
            f"{what} needs a model that is compiled, for what the optimizer knows of the weights "
            "goes with them. Received: a model that is not. Call `model.compile`, in a training "
            "loop of your own too, with its optimizer."
        )
