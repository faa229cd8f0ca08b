"""Initialisers of layers that make several weights with one."""

from __future__ import annotations

from typing import Any

import keras


def clone_initializer(initializer: Any) -> Any:
    """Return an initialiser that draws anew: two weights of one shape must not start equal."""
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer
