"""Which of the layers inside a layer are frozen, in its config.

Keras writes the flag `trainable` of a layer into that layer's config, and the config of a layer
does not contain those of the layers inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import keras

from keras_lightrnn._internal.typing import Config

_KEY = "frozen_parts"


class HasParts:
    """Mixin of a layer with other layers inside it, its parts.

    It makes parts with its own `trainable`. Its config names the frozen ones if a flag was set
    afterwards, or if a part that it was given has another flag.
    """

    trainable: bool

    def _get_parts(self) -> dict[str, keras.layers.Layer]:
        """Return the parts with weights by name. One that holds another stands before it."""
        raise NotImplementedError


_Layer = TypeVar("_Layer", bound=HasParts)


def serialize_frozen_parts(layer: HasParts) -> Config:
    """Return the entry `frozen_parts` for a config: the names of all parts that are frozen.

    Returns:
        The entry; nothing if all parts have the flag of the layer, as is usual.

    Example:

    >>> class Pair(HasParts, keras.layers.Layer):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.left, self.right = (keras.layers.Dense(3) for _ in range(2))
    ...
    ...     def _get_parts(self):
    ...         return {"left": self.left, "right": self.right}
    >>> layer = Pair()
    >>> serialize_frozen_parts(layer)
    {}
    >>> layer.right.trainable = False
    >>> serialize_frozen_parts(layer)
    {'frozen_parts': ['right']}
    >>> config = {**layer.get_config(), **serialize_frozen_parts(layer)}
    >>> load_frozen_parts(Pair, config).right.trainable
    False
    """
    parts = list(_list_parts(layer))
    if all(part.trainable == layer.trainable for _, part in parts):
        return {}
    return {_KEY: [name for name, part in parts if not part.trainable]}


def load_frozen_parts(cls: type[_Layer], config: Config) -> _Layer:
    """Return the layer of a config, with the flags that the config names."""
    config = dict(config)
    frozen = config.pop(_KEY, None)
    layer = cls(**config)
    if frozen is not None:
        # Keras hands a flag down to all that a part holds, which is set after the part.
        for name, part in _list_parts(layer):
            if part.trainable != (name not in frozen):
                part.trainable = not part.trainable
    return layer


def _list_parts(layer: Any, prefix: str = "") -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yield the parts of a layer and those inside them, with names such as `table_1/row_reader`."""
    if isinstance(layer, HasParts):
        for name, part in layer._get_parts().items():
            yield prefix + name, part
            yield from _list_parts(part, f"{prefix}{name}/")
