"""Helpers for models that `tf.distribute` runs on several replicas."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

_HAS_SYNCHRONIZATION = "synchronization" in inspect.signature(keras.Variable.__init__).parameters


def count_replicas(model: Any = None) -> int:
    """Return the number of replicas of a model, or without a model, of the current scope."""
    strategy = _get_strategy(model)
    return 1 if strategy is None else strategy.num_replicas_in_sync


def is_multi_worker(model: Any) -> bool:
    """Return whether a model trains in several processes, which must act alike."""
    cluster = getattr(_get_strategy(model), "cluster_resolver", None)
    if cluster is None:
        return False
    return sum(len(tasks) for tasks in cluster.cluster_spec().as_dict().values()) > 1


def is_chief(model: Any) -> bool:
    """Return whether this process acts for all processes."""
    if not is_multi_worker(model):
        return True
    cluster = _get_strategy(model).cluster_resolver
    is_first = cluster.task_type in (None, "worker") and cluster.task_id in (None, 0)
    has_chief = "chief" in cluster.cluster_spec().jobs
    return cluster.task_type == "chief" or (is_first and not has_chief)


def run_on_chief(model: Any, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a function in the chief's process, and return its result in all processes.

    An exception is raised in all of them, so that none waits for a process that has failed.

    Args:
        model: The Keras model.
        function: Callable without arguments. It returns a dictionary of arrays and of values that
            JSON can hold.

    Raises:
        RuntimeError: in the other processes, if the function raised in the chief's.
    """
    if not is_multi_worker(model):
        return function()
    error, result = None, {}
    if is_chief(model):
        try:
            result = function()
        except Exception as raised:
            error = raised
    data = encode({**result, "error": None if error is None else repr(error)})
    received = decode(_broadcast(model, data))
    failed = received.pop("error")
    if error is not None:
        raise error
    if failed is not None:
        raise RuntimeError(
            f"The chief of the workers has failed: {failed}. See the log of its process."
        )
    return received


def encode(values: dict[str, Any]) -> bytes:
    """Return a dictionary of arrays and JSON values as bytes.

    Example:

    >>> decode(encode({"cells": np.arange(2), "cost": 0.5, "prices": None}))
    {'cells': array([0, 1]), 'cost': 0.5, 'prices': None}
    """
    arrays = {name: x for name, x in values.items() if isinstance(x, np.ndarray)}
    order = [[name, None if name in arrays else x] for name, x in values.items()]
    header = np.frombuffer(json.dumps(order).encode(), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, header, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def decode(data: bytes) -> dict[str, Any]:
    """Return what `encode` was given."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        order = json.loads(file["arr_0"].tobytes())
        return {name: file.get(name, x) for name, x in order}


def _broadcast(model: Any, data: bytes) -> bytes:
    """Return the chief's `data` in all processes."""
    import tensorflow as tf

    strategy = _get_strategy(model)
    acts = is_chief(model)

    def share(values: np.ndarray) -> np.ndarray:
        # A sum to which only the first replica of the chief contributes.
        shares = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                values if acts and context.replica_id_in_sync_group == 0 else values * 0
            )
        )
        total = strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None)
        return total.numpy()

    (length,) = share(np.array([len(data)], np.int32))
    values = np.zeros(-(-int(length) // 4), np.int32)
    if acts:
        values.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    return share(values).tobytes()[: int(length)]


def strategy_scope(model: Any) -> Any:
    """Return the scope in which a model's variables are made; without a strategy, an empty one."""
    strategy = _get_strategy(model)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def check_made_in_scope(model: Any, optimizer: Any) -> None:
    """Raise `ValueError` for an optimizer that cannot train on the replicas of a model."""
    if count_replicas(model) == 1 or not isinstance(optimizer, keras.optimizers.Optimizer):
        return
    # With gradient accumulation, `iterations` is not a variable.
    iterations = getattr(optimizer, "inner_optimizer", optimizer).variables[0]
    if not _get_strategy(model).extended.variable_created_in_scope(iterations.value):
        raise ValueError(
            "The optimizer of a model must be made in the scope of the model's strategy. Received: "
            f"{optimizer.name!r}, made outside of it, and {count_replicas(model)} replicas. Make "
            "it inside `with strategy.scope():`, or pass its name."
        )


def all_reduce_sum(values: Any) -> Any:
    """Return the sum of a tensor over the replicas of a step, or outside of a step the tensor."""
    if count_replicas() == 1:
        return values
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return values if replica is None else replica.all_reduce(tf.distribute.ReduceOp.SUM, values)


def make_replica_variable(shape: tuple[int, ...], name: str, dtype: str = "float32") -> Any:
    """Return a variable of zeros of which each replica has a part; reading it sums the parts.

    Raises:
        RuntimeError: on several replicas, if this version of Keras has no such variables.
    """
    kwargs: dict[str, Any] = {"autocast": False}  # in a step, a cast variable is a tensor
    if _HAS_SYNCHRONIZATION:
        kwargs["synchronization"] = "on_read"
    elif count_replicas() > 1:
        raise RuntimeError(
            "State of each replica needs a Keras whose variables take `synchronization`. "
            f"Received: Keras {keras.__version__} on {count_replicas()} replicas. Upgrade Keras, "
            "or train on one device."
        )
    return keras.Variable(
        "zeros", shape=shape, dtype=dtype, trainable=False, aggregation="sum", name=name, **kwargs
    )


def count_parts(variable: Any) -> int:
    """Return how many replicas of this process hold a part of a replica variable."""
    return len(_list_parts(variable))


def read_parts(variable: Any) -> np.ndarray:
    """Return the parts of a replica variable on this process's replicas, `(N, ...)`."""
    return np.stack([keras.ops.convert_to_numpy(part) for part in _list_parts(variable)])


def assign_parts(variable: Any, parts: np.ndarray) -> None:
    """Set the parts of a replica variable on this process's replicas."""
    for part, values in zip(_list_parts(variable), parts, strict=True):
        part.assign(keras.ops.cast(values, variable.dtype))


def _list_parts(variable: Any) -> tuple[Any, ...]:
    if keras.backend.backend() == "tensorflow" and hasattr(variable.value, "values"):
        return variable.value.values  # of a variable that a strategy has distributed
    return (variable,)


def _get_strategy(model: Any) -> Any:
    """Return the strategy of a model, or without a model, of the current scope; or `None`."""
    if keras.backend.backend() != "tensorflow":
        return None
    if model is not None:
        return model.distribute_strategy
    import tensorflow as tf

    return tf.distribute.get_strategy()
