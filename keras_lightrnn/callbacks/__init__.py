"""Callbacks: learning the table while the network is trained."""

from keras_lightrnn.callbacks.half_step_statistics import HalfStepStatistics
from keras_lightrnn.callbacks.reallocation import ReallocationCallback

__all__ = ["HalfStepStatistics", "ReallocationCallback"]
