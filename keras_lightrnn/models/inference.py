"""Compiled inference on every Keras backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


def compile_inference(model: keras.Model, function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that reads (never writes) the model's variables.

    Args:
        model: The model, built, whose variables `function` reads.
        function: From tensors to tensors.

    Returns:
        A function of the same arguments. It sees later changes of the variables.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False, reduce_retracing=True)
    if backend == "jax":
        import jax

        def stateless(values: list[Any], *args: Any) -> Any:
            with keras.StatelessScope(
                state_mapping=list(zip(model.variables, values, strict=True))
            ):
                return function(*args)

        compiled = jax.jit(stateless)
        return lambda *args: compiled([v.value for v in model.variables], *args)
    if backend == "torch":
        import torch

        return torch.no_grad()(function)
    return function
