"""Continuations of texts with any network, by sampling and beam search; and a neural cache."""

from keras_lightrnn.search.decoding import generate
from keras_lightrnn.search.neural_cache import NeuralCache
from keras_lightrnn.search.step_network import StepNetwork

__all__ = ["NeuralCache", "StepNetwork", "generate"]
