"""Functions of tensors with gradients written by hand, compiled wherever they are called from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def compile_op(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a differentiable function of its forward and its backward pass.

    On TensorFlow XLA compiles each pass, also inside a step that is not compiled, as Keras's
    steps on CPU and under a strategy are. On JAX the caller's `jit` compiles them. Nothing
    but the inputs and what `forward` leaves lives between the two.

    Args:
        forward: `(inputs, *options) -> (outputs, residuals)`, lists of tensors.
        backward: `(inputs, residuals, upstream, *options) -> gradients`, `upstream` being the
            gradients of the outputs; a gradient for each input, `None` for integers and for
            inputs that are `None`.

    Returns:
        `(inputs, *options) -> outputs`. Inputs are a list of tensors and `None`s, options
        any hashable constants. Differentiable once: to differentiate the gradient raises
        `NotImplementedError`.

    Example:

    >>> import numpy as np
    >>> def forward(inputs):
    ...     return [inputs[0] ** 2], []
    >>> def backward(inputs, residuals, upstream):
    ...     return [2 * inputs[0] * upstream[0]]
    >>> [square] = compile_op(forward, backward)([np.float32(3)])
    >>> float(square)
    9.0
    """
    run_forward, run_backward = _compile(forward), _compile(backward)

    def op(inputs: list[Any], *options: Any) -> list[Any]:
        def restore(present: Any) -> list[Any]:
            rest = iter(present)
            return [None if x is None else next(rest) for x in inputs]

        @ops.custom_gradient
        def run(*present: Any) -> Any:
            # What the tape does not see it does not differentiate: the loops inside have no
            # gradients but ours.
            hidden = restore(ops.stop_gradient(x) for x in present)
            outputs, residuals = run_forward(hidden, *options)

            def gradient(*upstream: Any) -> Any:
                has_gradient: list[bool] = []

                @ops.custom_gradient
                def differentiate(*args: Any) -> Any:
                    upstream = [ops.stop_gradient(x) for x in args[len(present) :]]
                    gradients = run_backward(hidden, residuals, upstream, *options)
                    has_gradient[:] = [g is not None for g in gradients]
                    return tuple(g for g in gradients if g is not None), _refuse

                # The inputs are there to be seen by whoever differentiates once more.
                rest = iter(differentiate(*present, *keras.tree.flatten(upstream)))
                gradients = [next(rest) if is_there else None for is_there in has_gradient]
                return tuple(g for g, x in zip(gradients, inputs, strict=True) if x is not None)

            return tuple(outputs), gradient

        return list(run(*(ops.convert_to_tensor(x) for x in inputs if x is not None)))

    return op


def _refuse(*upstream: Any) -> Any:
    raise NotImplementedError(
        "The fused recurrence and the fused softmax are differentiable once. Received: a gradient "
        'of their gradient. Use `recurrence_path="keras"`, and call `TwoComponentSoftmax` with '
        "`fused=False`."
    )


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.cache
    def get() -> Callable[..., Any]:  # the backend is loaded on the first call
        if keras.backend.backend() != "tensorflow":
            return function
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)

    return lambda *args: get()(*args)
