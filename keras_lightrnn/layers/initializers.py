"""Initialisers of layers that make several weights with one."""

from __future__ import annotations

from typing import Any

import keras


def clone_initializer(initializer: Any, number: int = 0) -> Any:
    """Return an initialiser that draws anew: two weights of one shape must not start equal.

    Args:
        initializer: An initialiser, or a function.
        number: Integer, which of the weights of the layer it is for. With an integer seed each
            has a seed of its own.

    Example:

    >>> initializer = keras.initializers.RandomUniform(seed=3)
    >>> clone_initializer(initializer, number=1).get_config()["seed"]
    4
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    # One without a seed draws nothing, and its config may not say all; one with a `SeedGenerator`,
    # a dictionary here, draws anew unless it is copied.
    if "seed" not in config or isinstance(config["seed"], dict):
        return initializer
    if config["seed"] is not None:
        config["seed"] += number
    return type(initializer).from_config(config)
