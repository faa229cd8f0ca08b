"""LightRNN for Keras: language models over very large vocabularies.

`Allocation`, `assignment`, `data`, `reallocation` and `visualization` need NumPy, SciPy and Numba
only; the functions of `data` that return or read `tf.data` import TensorFlow, and `datasets` needs
TensorFlow Datasets. The rest needs Keras with a backend, and is there when
`import keras` works; `serving` needs TensorFlow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# `Allocation.from_cooccurrence` and `from_features` need the builders that clustering registers.
from keras_lightrnn import clustering
from keras_lightrnn.table.allocation import Allocation

if TYPE_CHECKING:
    from keras_lightrnn import (
        assignment,
        callbacks,
        data,
        datasets,
        layers,
        losses,
        metrics,
        models,
        ops,
        reallocation,
        recurrence,
        search,
        serving,
        visualization,
    )
    from keras_lightrnn.models import LightRNNModel
    from keras_lightrnn.table.word_table import WordTable

__version__ = "0.2.0"

__all__ = [
    "Allocation",
    "LightRNNModel",
    "WordTable",
    "assignment",
    "callbacks",
    "clustering",
    "data",
    "datasets",
    "layers",
    "losses",
    "metrics",
    "models",
    "ops",
    "reallocation",
    "recurrence",
    "search",
    "serving",
    "visualization",
]

# Imported on first use, because they are slow to import, as TensorFlow Datasets is.
_LAZY_MODULES = ("assignment", "data", "datasets", "reallocation", "serving", "visualization")
_no_keras: ImportError | None = None

try:
    import keras as _keras  # noqa: F401
except ImportError as error:  # no Keras, or no backend for it
    _no_keras = error
else:
    # At once and not on first use: `keras.saving.load_model` finds classes that are registered.
    from keras_lightrnn import callbacks, layers, losses, metrics, models, ops, recurrence, search
    from keras_lightrnn.models import LightRNNModel
    from keras_lightrnn.table.word_table import WordTable


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return import_module(f"keras_lightrnn.{name}")
    if name in __all__ and _no_keras is not None:
        raise ImportError(
            f"`keras_lightrnn.{name}` needs Keras 3 and a backend for it. Received: "
            f"{_no_keras}. Install one, for example `pip install tensorflow`."
        ) from _no_keras
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
