"""LightRNN for Keras: language models over very large vocabularies."""

from keras_lightrnn.allocation import Allocation

__all__ = ["Allocation"]
