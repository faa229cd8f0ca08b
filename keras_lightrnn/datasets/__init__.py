"""Data sets for TensorFlow Datasets. Importing this package registers them."""

from keras_lightrnn.datasets.python_docstrings import PythonDocstrings

__all__ = ["PythonDocstrings"]
