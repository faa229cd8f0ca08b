"""Private names of Keras that the package cannot avoid, each with its reason."""

from __future__ import annotations

from typing import Any

# Masks: there is no public way to read the mask of a tensor on every backend, because JAX arrays
# take no attributes.
from keras.src.backend import get_keras_mask, set_keras_mask

# Shared objects: Keras recognises an object that several configs of a file hold by its memory
# address, and fails for a layer in the config of another layer. A stable identifier needs the
# same maps. They exist while a model is saved to or loaded from a `.keras` file.
from keras.src.backend.common.global_state import get_global_attribute


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
    """Attach a mask to `x`."""
    set_keras_mask(x, mask)


def get_shared_objects() -> dict[Any, Any] | None:
    """Return the objects of the file that is being saved or loaded, by identifier.

    Returns:
        A dictionary that lives as long as the operation; `None` outside of one, where objects
        cannot be recognised.

    Example:

    >>> get_shared_objects() is None
    True
    """
    return get_global_attribute("shared_objects/id_to_obj_map")
