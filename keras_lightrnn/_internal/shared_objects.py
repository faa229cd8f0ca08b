"""Objects that several configs of one `.keras` file hold, and that stay one object when loaded.

Keras recognises such an object by its memory address, which makes files of equal models unequal,
and fails for a layer in the config of another layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_lightrnn._internal.keras_internals import get_shared_objects


def get_shared_id(instance: Any) -> str:
    """Return what identifies an object with a `name` in all configs of one file.

    The name and a number, which tells objects of the same name apart, so that equal models are
    written as equal files.

    Example:

    >>> get_shared_id(keras.layers.Dense(3, name="dense"))
    'dense/0'
    """
    number, objects = 0, get_shared_objects()
    if objects is not None:
        while objects.setdefault(("saved", instance.name, number), instance) is not instance:
            number += 1
    return f"{instance.name}/{number}"


def serialize_shared_id(instance: Any) -> dict[str, str]:
    """Return the entry `shared_id` for a config in a file, and nothing for any other config.

    Example:

    >>> serialize_shared_id(keras.layers.Dense(3, name="dense"))
    {}
    """
    return {} if get_shared_objects() is None else {"shared_id": get_shared_id(instance)}


def load_shared(config: dict[str, Any], make: Callable[[dict[str, Any]], Any]) -> Any:
    """Return the object of a config with a `shared_id`: the same one for all configs of a file.

    Args:
        config: A config, with `shared_id` or, from an earlier version, without.
        make: Makes the object from the rest of the config.

    Example:

    >>> load_shared({"units": 3, "shared_id": "dense/0"}, lambda config: config)
    {'units': 3}
    """
    config = dict(config)
    key = "loaded", config.pop("shared_id", None)
    loaded = get_shared_objects()
    if loaded is None or key[1] is None:
        return make(config)
    if key not in loaded:
        loaded[key] = make(config)
    return loaded[key]


def check_is_stored(layer: keras.layers.Layer, store: Any) -> None:
    """Raise `ValueError` if a file of weights holds none for a layer that is built.

    This is so in a file of a model whose layers share one where this model has two.

    Args:
        layer: A layer that other layers may share.
        store: As in `load_own_variables`.

    Example:

    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 2))
    >>> check_is_stored(layer, {"0": 1.0, "1": 2.0})
    """
    if layer.built and not store.keys():
        raise ValueError(
            f"Weights of a `{type(layer).__name__}` must be loaded from a file of a model with the "
            f"same shared layers. Received: a file without weights of {layer.name!r}. Its model "
            f"shares one `{type(layer).__name__}` between layers, but this model, made by "
            "`from_config`, `model_from_json` or `clone_model`, has one for each layer. Save and "
            "load the whole model as a `.keras` file, or copy it with `copy.deepcopy`."
        )


def serialize_shared(instance: Any) -> dict[str, Any]:
    """Serialise an object with a `shared_id` in its config, for the config of another.

    As `keras.saving.serialize_keras_object`, except that a file does not contain the memory
    address by which Keras marks objects that it meets again.

    Example:

    >>> serialize_shared(keras.layers.Dense(3, name="dense"))["class_name"]
    'Dense'
    """
    return {
        "module": type(instance).__module__,
        "class_name": type(instance).__name__,
        "config": instance.get_config(),
        "registered_name": keras.saving.get_registered_name(type(instance)),
    }
