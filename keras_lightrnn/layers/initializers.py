"""Initialisers of layers that make several weights with one."""

from __future__ import annotations

from typing import Any

import keras


def clone_initializer(initializer: Any, number: int = 0) -> Any:
    """Return a copy of an initialiser, so that two weights of one shape do not start equal.

    Args:
        initializer: An initialiser, or a function.
        number: Integer, the number of the weight in its layer. It is added to an integer seed.

    Example:

    >>> initializer = keras.initializers.RandomUniform(seed=3)
    >>> clone_initializer(initializer, number=1).get_config()["seed"]
    4
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    # An initialiser without a seed draws nothing, and its config may be incomplete. One with a
    # `SeedGenerator`, a dictionary here, draws other numbers at each call unless it is copied.
    if "seed" not in config or isinstance(config["seed"], dict):
        return initializer
    if config["seed"] is not None:
        config["seed"] += number
    return type(initializer).from_config(config)
