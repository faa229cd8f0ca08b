"""Whole language models."""

from keras_lightrnn.models.light_rnn_model import LightRNNModel

__all__ = ["LightRNNModel"]
