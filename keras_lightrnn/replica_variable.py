"""Variables of which every replica of a distributed run has a part of its own."""

from __future__ import annotations

import inspect
from typing import Any

import keras

_HAS_SYNCHRONIZATION = "synchronization" in inspect.signature(keras.Variable.__init__).parameters


def make_replica_variable(shape: tuple[int, ...], name: str, dtype: str = "float32") -> Any:
    """Return a variable of zeros that replicas change on their own and that sums when read.

    Raises:
        RuntimeError: on several replicas, if this version of Keras has no such variables.
    """
    kwargs = {}
    if _HAS_SYNCHRONIZATION:
        kwargs["synchronization"] = "on_read"
    elif _count_replicas() > 1:
        raise RuntimeError(
            "State kept for each replica needs a Keras whose variables take `synchronization`. "
            f"Received: Keras {keras.__version__} on {_count_replicas()} replicas. Upgrade Keras, "
            "or train on one device."
        )
    return keras.Variable(
        "zeros", shape=shape, dtype=dtype, trainable=False, aggregation="sum", name=name, **kwargs
    )


def _count_replicas() -> int:
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
