"""Callbacks that learn the word table during training, and that back up a run."""

from keras_lightrnn.callbacks.half_step_statistics import HalfStepStatistics
from keras_lightrnn.callbacks.reallocation import ReallocationCallback
from keras_lightrnn.callbacks.training_backup import TrainingBackup

__all__ = ["HalfStepStatistics", "ReallocationCallback", "TrainingBackup"]
