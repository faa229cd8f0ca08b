"""Export for serving; needs TensorFlow, whatever the Keras backend."""

from keras_lightrnn.serving.limits import ServingLimits
from keras_lightrnn.serving.litert import export_litert
from keras_lightrnn.serving.saved_model import export_saved_model

__all__ = ["ServingLimits", "export_litert", "export_saved_model"]
