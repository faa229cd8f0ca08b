"""Compiled inference on every Keras backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.keras_internals import check_has_value


def compile_inference(
    model: keras.Model, function: Callable[..., Any], any_size: bool = True
) -> Callable[..., Any]:
    """Compile a function that reads (never writes) the model's variables.

    Args:
        model: The model, built, whose variables `function` reads.
        function: From tensors, or lists of them, to tensors.
        any_size: Boolean, whether TensorFlow traces it once for all lengths of the first axis, and
            of every axis of integers, or once for each shape.

    Returns:
        A function of the same arguments, which may be NumPy arrays too. It sees later changes of
        the variables, and raises `RuntimeError` while the trainer holds their values.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _compile_for_tensorflow(function, any_size)
    if backend == "jax":
        import jax

        def stateless(values: list[Any], *args: Any) -> Any:
            with keras.StatelessScope(
                state_mapping=list(zip(model.variables, values, strict=True))
            ):
                return function(*args)

        compiled = jax.jit(stateless)

        def run(*args: Any) -> Any:
            variables = model.variables
            for variable in variables:
                check_has_value(variable)
            return compiled([variable.value for variable in variables], *args)

        return run
    return run_without_gradients(function)


def _compile_for_tensorflow(function: Callable[..., Any], any_size: bool) -> Callable[..., Any]:
    import tensorflow as tf

    if not any_size:
        return tf.function(function, autograph=False)

    def describe(x: Any) -> tf.TensorSpec:
        sizes = [None] * x.shape.rank
        return tf.TensorSpec(sizes if x.dtype.is_integer else [None, *x.shape[1:]], x.dtype)

    traced: Any = None
    has_gpu = bool(tf.config.list_physical_devices("GPU"))

    def run(*args: Any) -> Any:
        nonlocal traced
        if traced is None:
            tensors = keras.tree.map_structure(tf.convert_to_tensor, args)
            signature = keras.tree.map_structure(describe, tensors)
            traced = tf.function(function, signature, autograph=False).get_concrete_function()
        if has_gpu:
            return traced(*keras.tree.map_structure(tf.convert_to_tensor, args))
        # The op that a call ends in: a call also checks its arguments, which takes as long as a
        # small function runs.
        outputs = tf.raw_ops.StatefulPartitionedCall(
            args=[*keras.tree.flatten(args), *traced.captured_inputs],
            Tout=[output.dtype for output in traced.outputs],
            f=traced,
        )
        return keras.tree.pack_sequence_as(traced.structured_outputs, outputs)

    return run


def run_without_gradients(function: Callable[..., Any], any_size: bool = True) -> Any:
    """Return a function that is not compiled, and on PyTorch records nothing for gradients."""

    def run(*args: Any) -> Any:
        return function(
            *(ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x for x in args)
        )

    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()(run)
    return run


def view_values(variable: keras.Variable) -> np.ndarray:
    """Return the values of a variable, to read; where the backend can, without a copy."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return np.asarray(memoryview(tf.convert_to_tensor(variable.value)))
    return ops.convert_to_numpy(variable)
