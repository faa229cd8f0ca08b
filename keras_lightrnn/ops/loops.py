"""A compiled loop over time, on TensorFlow and JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_lightrnn._internal.typing import Tensor


def scan(
    step: Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]],
    carry: list[Tensor],
    inputs: Sequence[Tensor],
    output_shapes: Sequence[tuple[int | None, ...]],
    reverse: bool = False,
    overwrite: bool = False,
    unstack: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run `step(carry, inputs at t) -> (carry, outputs at t)` over the first axis of `inputs`.

    Not differentiable on TensorFlow: it is meant for functions with hand-written gradients. Unlike
    in `keras.ops.scan`, outputs may differ from the carry in shape, and XLA can compile the loop.

    Args:
        step: The step. Carry and outputs are lists of tensors.
        carry: The first carry.
        inputs: Tensors `(L, ...)`, at least one.
        output_shapes: Shape of each of a step's float32 outputs, `None` where unknown.
        reverse: Boolean, whether to go from the last step to the first. Outputs are in the order
            of the inputs.
        overwrite: Boolean, whether the first output, float32 and shaped as the first input,
            may take its memory. A step must have read the input where it computes the output.
        unstack: Boolean, whether a step gets the first input, `(L, n, ...)`, as a list of `n`
            parts. XLA vectorises the arithmetic of parts that are read one by one.

    Returns:
        The last carry, and the outputs `(L, ...)`.

    Example:

    >>> import numpy as np
    >>> add = lambda carry, x: ([carry[0] + x[0]], [carry[0] + x[0]])
    >>> [total], [sums] = scan(add, [np.float32(0)], [np.float32([1, 2, 3])], [()])
    >>> float(total), np.asarray(sums).tolist()
    (6.0, [1.0, 3.0, 6.0])
    """
    if keras.backend.backend() == "jax":
        import jax

        def run(carry: list[Tensor], inputs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            first, *others = inputs
            return step(carry, [list(first) if unstack else first, *others])

        return jax.lax.scan(run, list(carry), list(inputs), reverse=reverse)

    import tensorflow as tf

    first, *others = (tf.convert_to_tensor(x) for x in inputs)
    num_steps = tf.shape(first)[0]
    outputs = [
        tf.TensorArray(tf.float32, size=num_steps, element_shape=shape) for shape in output_shapes
    ]
    if overwrite:  # a new array costs XLA the time to fill it with zeros
        outputs[0] = outputs[0].unstack(first)

    def body(
        index: Tensor, carry: list[Tensor], outputs: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        place = num_steps - 1 - index if reverse else index
        if unstack:
            value: Any = [first[place, part] for part in range(first.shape[1])]
        else:
            value = outputs[0].read(place) if overwrite else first[place]
        carry, values = step(carry, [value, *(x[place] for x in others)])
        outputs = [array.write(place, y) for array, y in zip(outputs, values, strict=True)]
        return index + 1, carry, outputs

    _, carry, outputs = tf.while_loop(
        lambda index, *_: index < num_steps,
        body,
        (0, [tf.convert_to_tensor(x) for x in carry], outputs),
        maximum_iterations=num_steps,
    )
    return carry, [array.stack() for array in outputs]
