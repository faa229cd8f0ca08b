"""The base of layers that ask a softmax about all words."""

from __future__ import annotations

from typing import Any

import keras

from keras_lightrnn._internal.shared_objects import serialize_shared
from keras_lightrnn._internal.typing import Config, Shape
from keras_lightrnn.layers.two_component_softmax import TwoComponentSoftmax


class SoftmaxSearch(keras.layers.Layer):
    """Layer that searches a softmax and has no weights except those of the softmax.

    Args:
        softmax: `TwoComponentSoftmax` with a row reader.
        **kwargs: As in every Keras layer.

    Raises:
        TypeError: if `softmax` is not a `TwoComponentSoftmax`.
        ValueError: if it has no row reader.
    """

    def __init__(self, softmax: TwoComponentSoftmax, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        _check_softmax(softmax)
        self.softmax = softmax
        self.supports_masking = True
        self.autocast = False  # word ids must never be rounded to a float type

    def build(self, states_shape: Shape) -> None:
        if not self.softmax.built:
            self.softmax.build(states_shape)
        self.built = True

    def get_config(self) -> Config:
        return {**super().get_config(), "softmax": serialize_shared(self.softmax)}

    @classmethod
    def from_config(cls, config: Config) -> SoftmaxSearch:
        softmax = keras.saving.deserialize_keras_object(config["softmax"])
        return cls(**{**config, "softmax": softmax})


def _check_softmax(softmax: Any) -> None:
    """Raise unless `softmax` can be searched from states alone."""
    if not isinstance(softmax, TwoComponentSoftmax):
        raise TypeError(
            "`softmax` must be a `TwoComponentSoftmax`. Received: softmax="
            f"{softmax!r} (of type {type(softmax).__name__}). Give the layer that the model "
            "was trained with."
        )
    if softmax.row_reader is None:
        raise ValueError(
            "`softmax` must have a row reader. Received: row_reader=None. Give it "
            'row_reader="gated"; half-steps are searched by `TwoComponentSoftmax.next_words`, '
            "given a function with which the network reads rows."
        )
