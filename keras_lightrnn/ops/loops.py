"""Compiled loops over time, and over blocks of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

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


def map_blocks(
    function: Callable[..., list[Any]],
    tensors: Sequence[Any],
    size: int,
    dtypes: Sequence[str],
) -> list[Any]:
    """Apply a function to blocks of a batch, one after the other, and join the results.

    Blocks bound the memory. They have one size, and the last text is repeated to fill the last
    block: shapes are static where the batch size is.

    Args:
        function: From slices of `tensors` to a list of matrices `(block, n)`.
        tensors: Tensors `(B, ...)`, at least one.
        size: Integer, the largest block.
        dtypes: The dtypes of the results.

    Returns:
        List of `(B, n)`.

    Example:

    >>> import numpy as np
    >>> [sums] = map_blocks(lambda x: [x + len(x)], [np.float32([[1], [2], [3]])], 2, ["float32"])
    >>> np.asarray(sums).tolist()
    [[3.0], [4.0], [5.0]]
    """
    tensors = [ops.convert_to_tensor(x) for x in tensors]
    batch_size = ops.shape(tensors[0])[0]
    if isinstance(batch_size, int):
        if batch_size <= size:
            return function(*tensors)
        num_blocks = -(-batch_size // size)
        size = -(-batch_size // num_blocks)
    else:
        num_blocks = ops.maximum(-(-batch_size // size), 1)
        size = -(-batch_size // num_blocks)
    places = ops.arange(num_blocks * size, dtype="int32")
    places = ops.reshape(ops.minimum(places, batch_size - 1), (num_blocks, size))

    def run(places: Any) -> list[Any]:
        return function(*(ops.take(x, places, axis=0) for x in tensors))

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # whose loop runs one block at a time, unlike that of Keras

        shapes = [tf.TensorSpec(None, dtype) for dtype in dtypes]
        results = tf.map_fn(run, places, fn_output_signature=shapes, parallel_iterations=1)
    else:
        results = ops.map(run, places)
    return [ops.reshape(x, (-1, x.shape[-1]))[:batch_size] for x in results]
