"""Functions of tensors with hand-written gradients, compiled wherever they are called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.keras_internals import is_watched_by_tensorflow
from keras_lightrnn._internal.typing import Tensor


def compile_op(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make a differentiable function from a forward and a backward pass.

    On TensorFlow, XLA compiles each pass, also inside a step that is not compiled, such as the
    steps of Keras on a CPU or under a strategy. On JAX the `jit` of the caller compiles them. Only
    the inputs and the residuals of `forward` live between the passes.

    TensorFlow keeps one program for each function, set of shapes and set of options, and never
    frees it. Call `compile_op` once, at the top of a module: all models then share the programs.

    Args:
        forward: `(inputs, *options) -> (outputs, residuals)`, lists of tensors.
        backward: `(inputs, residuals, upstream, *options) -> gradients`, where `upstream` are the
            gradients of the outputs. One gradient for each input, `None` for integers and for
            inputs that are `None`.

    Returns:
        `(inputs, *options) -> outputs`. Inputs are a list of tensors and `None`s, options are
        hashable constants. Differentiable once: differentiating the gradient raises
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
            # Hidden from the tape, which would try to differentiate the loops inside.
            hidden = restore(ops.stop_gradient(x) for x in present)
            outputs, residuals = run_forward(hidden, *options)

            def gradient(*upstream: Tensor) -> Any:
                has_gradient: list[bool] = []

                @ops.custom_gradient
                def differentiate(*args: Any) -> Any:
                    upstream = [ops.stop_gradient(x) for x in args[len(present) :]]
                    gradients = run_backward(hidden, residuals, upstream, *options)
                    has_gradient[:] = [g is not None for g in gradients]
                    return tuple(g for g in gradients if g is not None), _refuse

                # The inputs are arguments so that a second differentiation reaches `_refuse`.
                rest = iter(differentiate(*present, *keras.tree.flatten(upstream)))
                gradients = [next(rest) if is_there else None for is_there in has_gradient]
                return tuple(g for g, x in zip(gradients, inputs, strict=True) if x is not None)

            return tuple(outputs), gradient

        return list(run(*(ops.convert_to_tensor(x) for x in inputs if x is not None)))

    return op


def _refuse(*upstream: Tensor) -> Any:
    raise NotImplementedError(
        "The fused recurrence and the fused softmax are differentiable once. Received: a gradient "
        'of their gradient. Use `recurrence_path="keras"`, and call `TwoComponentSoftmax` with '
        "`fused=False`."
    )


def uses_xla() -> bool:
    """Return whether functions of `compile_op` are compiled on TensorFlow now.

    They are not while functions run eagerly (`tf.config.run_functions_eagerly`), or while
    TensorFlow watches every operation (`tf.debugging.enable_check_numerics`), which XLA does not
    support.

    Example:

    >>> uses_xla()
    True
    """
    import tensorflow as tf

    return not (tf.config.functions_run_eagerly() or is_watched_by_tensorflow())


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.cache
    def get(jit_compile: bool) -> Callable[..., Any]:
        import tensorflow as tf

        return tf.function(function, jit_compile=jit_compile, autograph=False)

    def run(*args: Any) -> Any:  # the backend is known on the first call
        if keras.backend.backend() != "tensorflow":
            return function(*args)
        return get(uses_xla())(*args)

    return run
