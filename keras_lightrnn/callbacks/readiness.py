"""Checks of a model and its callbacks before training begins."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_lightrnn._internal.keras_internals import find_callback_list

# A kind of callback, and the attribute that is true where the order matters, or `None` for always.
_Kinds = Sequence[tuple[type[keras.callbacks.Callback], str | None]]


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


def check_order(
    callback: keras.callbacks.Callback, requirement: str, earlier: _Kinds, later: _Kinds
) -> None:
    """Raise `ValueError` if the `callbacks` of a `fit` are in a wrong order.

    Args:
        callback: The callback that checks, in its `on_train_begin`.
        requirement: String, the first sentence of the message.
        earlier: Kinds of callbacks that must stand before it.
        later: Kinds of callbacks that must stand after it.
    """
    callbacks = find_callback_list(callback)
    index = callbacks.index(callback)
    for place, others, kinds in (
        ("before", callbacks[:index], later),
        ("after", callbacks[index + 1 :], earlier),
    ):
        for other in others:
            for kind, option in kinds:
                if isinstance(other, kind) and (option is None or getattr(other, option)):
                    name = kind.__name__ if option is None else f"{kind.__name__}({option}=True)"
                    raise ValueError(
                        f"{requirement} Received: `callbacks` in which "
                        f"`{type(callback).__name__}` has `{name}` {place} it. Give it {place} "
                        "that callback."
                    )
