"""Whole language models."""

from keras_lightrnn._internal.observed_training import ObservedTraining
from keras_lightrnn.models.causality import check_causal
from keras_lightrnn.models.light_rnn_model import LightRNNModel
from keras_lightrnn.models.multi_worker import MultiWorkerTraining

__all__ = ["LightRNNModel", "MultiWorkerTraining", "ObservedTraining", "check_causal"]
