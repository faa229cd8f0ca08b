"""Continuations of texts with any network: sampling and beam search."""

from keras_lightrnn.search.decoding import generate
from keras_lightrnn.search.step_network import StepNetwork

__all__ = ["StepNetwork", "generate"]
