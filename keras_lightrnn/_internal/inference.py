"""Compiled inference on every Keras backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


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
        A function of the same arguments. It sees later changes of the variables.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def describe(x: Any) -> tf.TensorSpec:
            sizes = [None] * x.shape.rank
            return tf.TensorSpec(sizes if x.dtype.is_integer else [None, *x.shape[1:]], x.dtype)

        compiled: Any = None

        def run(*args: Any) -> Any:
            nonlocal compiled
            if compiled is None:
                signature = keras.tree.map_structure(describe, args) if any_size else None
                compiled = tf.function(function, signature, autograph=False)
                if any_size:  # to check arguments against the signature takes as long as some calls
                    compiled = compiled.get_concrete_function()
            return compiled(*args)

        return run
    if backend == "jax":
        import jax

        def stateless(values: list[Any], *args: Any) -> Any:
            with keras.StatelessScope(
                state_mapping=list(zip(model.variables, values, strict=True))
            ):
                return function(*args)

        compiled = jax.jit(stateless)
        return lambda *args: compiled([v.value for v in model.variables], *args)
    return run_without_gradients(function)


def run_without_gradients(function: Callable[..., Any], any_size: bool = True) -> Any:
    """Return a function that is not compiled, and on PyTorch records nothing for gradients."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()(function)
    return function
