"""Export for serving; needs the TensorFlow backend."""

from keras_lightrnn.serving.saved_model import export_saved_model

__all__ = ["export_saved_model"]
