"""The mask that Keras hands on with a tensor from layer to layer."""

from __future__ import annotations

from typing import Any

# There is no public name for these, and tensors of JAX have no attributes of their own.
from keras.src.backend import get_keras_mask, set_keras_mask


def get_mask(x: Any) -> Any:
    """Return the mask that `x` carries, or `None`.

    Example:

    >>> from keras import ops
    >>> x = ops.ones((2, 1))
    >>> get_mask(x) is None
    True
    >>> set_mask(x, ops.convert_to_tensor([True, False]))
    >>> ops.convert_to_numpy(get_mask(x)).tolist()
    [True, False]
    """
    return get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> None:
    """Have `x` carry a mask."""
    set_keras_mask(x, mask)
