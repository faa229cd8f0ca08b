"""Recurrences on the weights of the Keras layers, with gradients written by hand.

`keras.layers.LSTM` differentiates a loop, which forms the weight gradient by one small product
a step. Here the backward loop only carries the gradient of the state through time; the weight
gradient is one large product after it. Vectors that come from a small table are projected once
each, however often they occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_lightrnn._internal.typing import Tensor
from keras_lightrnn.ops.compiled_op import compile_op
from keras_lightrnn.ops.loops import scan
from keras_lightrnn.ops.products import multiply
from keras_lightrnn.recurrence.kinds import Recurrence, split_gates


def run_recurrence(
    recurrence: Recurrence,
    x: Tensor,
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    mask: Tensor = None,
    indices: Tensor = None,
    added: Sequence[Tensor] = (None, None),
    num_parts: int = 1,
) -> tuple[Tensor, list[Tensor]]:
    """Run a recurrence over a sequence, or over sums of vectors in a table.

    The equations, weights and masking of its Keras layer, with one difference that no later
    layer sees: a masked step outputs the state that it leaves unchanged. On TensorFlow XLA
    compiles it wherever it is called from. TensorFlow and JAX only.

    Args:
        recurrence: `Recurrence` with a `step_gradient`.
        x: `(L, B, D)`, time first; with `indices`, a table of vectors `(K, D)`.
        weights: `kernel` `(D, G H)`, `recurrent_kernel` `(H, G H)` and `bias` `(G H,)` for `G`
            gates; or `bias` `(2, G H)`, of the inputs and of the recurrence. The dtype of the
            kernels is that of the products; states, sums over time and the bias are float32.
        states: The states before the first step, `(B, H)` each.
        mask: `(L, B)` boolean, false where the states are carried over; or `None`.
        indices: `(L, B, n)` int32: step `t` of sequence `b` reads the sum of the `n` vectors
            `x[indices[t, b]]`. The table is multiplied by the kernel once, and the products are
            looked up.
        added: Vectors `(L, B, K)` and a matrix `(K, G H)`; their products are added to those of
            the inputs and the kernel.
        num_parts: Integer. The batch is divided into so many parts, each a program that
            TensorFlow runs at the same time as the others. A loop uses one core except in its
            products; two parts use two. XLA, inside a step that it compiles, runs them in turn.

    Returns:
        Hidden states `(L, B, H)`, and the last states `(B, H)` in a list, float32.
        Differentiable once, by everything but `mask` and `indices`.

    Example:

    >>> import numpy as np
    >>> from keras_lightrnn.recurrence.kinds import get_recurrence
    >>> kernel, recurrent_kernel = np.eye(4, 12, dtype="float32"), np.eye(3, 12, dtype="float32")
    >>> weights, zeros = [kernel, recurrent_kernel, np.zeros(12, "float32")], np.zeros((2, 3))
    >>> x = np.ones((5, 2, 4), "float32")
    >>> hidden, (h, c) = run_recurrence(get_recurrence("lstm"), x, weights, [zeros, zeros])
    >>> tuple(hidden.shape), bool((np.asarray(hidden)[-1] == np.asarray(h)).all())
    ((5, 2, 3), True)
    """
    kernel, recurrent_kernel, bias = weights
    recurrent_bias = None
    if len(bias.shape) == 2:
        bias, recurrent_bias = bias[0], bias[1]
    table = None
    if indices is not None:  # once for all parts
        share = bias / indices.shape[-1]  # in each of the products that add up
        [table], x, kernel, bias = _project_table([x, kernel, share]), None, None, None
    sequences = [mask, indices, x, added[0]]  # (L, B, ...)
    shared = [table, kernel, bias, added[1], recurrent_kernel, recurrent_bias]
    if num_parts == 1:
        hidden, *last = _run_part([*sequences, *shared, *states], recurrence)
        return hidden, last
    results = []
    for part in range(num_parts):
        batch_size = ops.shape(states[0])[0]
        here = slice(batch_size * part // num_parts, batch_size * (part + 1) // num_parts)
        of_part = [None if y is None else ops.convert_to_tensor(y)[:, here] for y in sequences]
        first = [ops.convert_to_tensor(state)[here] for state in states]
        results.append(_run_part([*of_part, *shared, *first], recurrence))
    hidden, *last = zip(*results, strict=True)
    return ops.concatenate(hidden, axis=1), [ops.concatenate(state) for state in last]


def _forward(inputs: list[Tensor], recurrence: Recurrence) -> tuple[list[Tensor], list[Tensor]]:
    """Return hidden states and last states; and of all steps what `_backward` needs.

    That is the gates, the hidden state after the step, what other states it started from, and
    the residuals.
    """
    mask, indices, x, vectors, table, kernel, bias, added_kernel = inputs[:8]
    recurrent_kernel, recurrent_bias, *states = inputs[8:]
    states = [ops.cast(state, "float32") for state in states]
    units, size = recurrent_kernel.shape
    num_gates = size // units
    if table is not None:
        projected = _look_up(table, indices, num_gates)  # (L, 4, B, H)
    else:
        projected = _project(x, kernel, bias, num_gates)
    if vectors is not None:
        projected += _project(vectors, added_kernel, 0.0, num_gates)

    def step(states: list[Tensor], place: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        x, *is_word = place
        r = multiply(states[0], recurrent_kernel)
        if recurrent_bias is not None:
            r = r + ops.cast(recurrent_bias, "float32")
        r = split_gates(ops, r, num_gates)
        gates, new_states, residuals = recurrence.step(ops, x, r, states)
        if is_word:
            new_states = _select(is_word[0], new_states, states)
        return new_states, [gates, new_states[0], *states[1:], *residuals]

    sequences = [projected, *([] if mask is None else [mask])]
    num_outputs = len(states) + recurrence.num_residuals
    shapes = [(num_gates, *states[0].shape)] + [states[0].shape] * num_outputs
    last, outputs = scan(step, states, sequences, shapes, overwrite=True)
    return [outputs[1], *last], outputs


def _project(x: Tensor, kernel: Tensor, bias: Tensor, num_gates: int) -> Tensor:
    """Return what the inputs of all steps add to the gates, `(L, 4, B, H)`."""
    projected = _multiply_and_add(x, kernel, bias)  # (L, B, 4H)
    units = kernel.shape[1] // num_gates
    gates = ops.reshape(projected, (*ops.shape(x)[:2], num_gates, units))
    return ops.transpose(gates, (0, 2, 1, 3))


def _look_up(projected: Tensor, indices: Tensor, num_gates: int) -> Tensor:
    """Return the same from the projected vectors of a table, `(K, 4H)`."""
    gates = np.arange(num_gates, dtype="int32")[:, None]
    vectors = ops.reshape(projected, (-1, projected.shape[1] // num_gates))
    places = (num_gates * indices[:, None, :, n] + gates for n in range(indices.shape[-1]))
    first, *others = (ops.take(vectors, x, axis=0) for x in places)  # (L, 4, B, H) each
    return sum(others, first)


def _multiply_and_add(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    # One product of two matrices, whatever the axes of `x` are.
    product = multiply(ops.reshape(x, (-1, kernel.shape[0])), kernel) + ops.cast(bias, "float32")
    return ops.reshape(product, (*ops.shape(x)[:-1], kernel.shape[1]))


def _multiply_and_add_backward(x: Tensor, kernel: Tensor, upstream: Tensor) -> list[Tensor]:
    """Return the gradients of vectors `(..., D)`, kernel and bias; `upstream` is `(N, 4H)`."""
    vectors = ops.reshape(x, (-1, kernel.shape[0]))
    dx = ops.reshape(multiply(upstream, ops.transpose(kernel)), ops.shape(x))
    return [dx, _multiply_transposed(vectors, upstream, kernel), ops.sum(upstream, axis=0)]


def _backward(
    inputs: list[Tensor], outputs: list[Tensor], upstream: list[Tensor], recurrence: Recurrence
) -> list[Tensor]:
    """Return the gradients of the inputs; `outputs` are of all steps, see `_forward`."""
    mask, indices, x, vectors, table, kernel, _, added_kernel = inputs[:8]
    recurrent_kernel, recurrent_bias, *first_states = inputs[8:]
    d_hidden, *d_last = upstream
    step_gradient = recurrence.step_gradient
    assert step_gradient is not None  # `is_fused` takes no other recurrence here
    num_states, size = len(first_states), recurrent_kernel.shape[1]
    has_recurrent_bias = recurrent_bias is not None
    gates, hidden, *others = outputs
    # The hidden states that the steps started from.
    previous = ops.concatenate([ops.cast(first_states[0], "float32")[None], hidden[:-1]])
    transposed = ops.transpose(recurrent_kernel)

    def step(gradients: list[Tensor], place: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        gates, d_output, *others = place
        states, residuals = others[:num_states], others[num_states : len(outputs) - 1]
        gradients = [gradients[0] + d_output, *gradients[1:]]
        dx, dr, d_states = step_gradient(gates, states, residuals, gradients)
        d_states[0] = d_states[0] + multiply(dr, transposed)
        if mask is not None:
            is_word = others[-1]
            dx, dr = _select(is_word, [dx, dr], [ops.zeros_like(dx), ops.zeros_like(dr)])
            d_states = _select(is_word, d_states, gradients)
        return d_states, [dx] if recurrence.adds_products else [dx, dr]

    sequences = [gates, d_hidden, previous, *others, *([] if mask is None else [mask])]
    shapes = [(d_hidden.shape[1], size)] * (1 if recurrence.adds_products else 2)
    d_states, products = scan(step, d_last, sequences, shapes, reverse=True, unstack=True)

    dx, dr = (ops.reshape(d, (-1, size)) for d in (products[0], products[-1]))  # (L B, 4H)
    hidden = ops.reshape(previous, (-1, recurrent_kernel.shape[0]))  # (L B, H)
    d_recurrent_kernel = _multiply_transposed(hidden, dr, recurrent_kernel)
    d_recurrent_bias = ops.sum(dr, axis=0) if has_recurrent_bias else None
    d_vectors = d_added_kernel = d_table = d_x = d_kernel = d_bias = None
    if vectors is not None:
        d_vectors, d_added_kernel, _ = _multiply_and_add_backward(vectors, added_kernel, dx)
    if table is not None:
        first, *others = (
            ops.segment_sum(dx, ops.reshape(indices[..., n], (-1,)), table.shape[0])
            for n in range(indices.shape[-1])
        )
        d_table = sum(others, first)  # (K, 4H)
    else:
        d_x, d_kernel, d_bias = _multiply_and_add_backward(x, kernel, dx)
    of_sequences = [None, None, d_x, d_vectors]
    of_weights = [d_table, d_kernel, d_bias, d_added_kernel, d_recurrent_kernel, d_recurrent_bias]
    gradients = [*of_sequences, *of_weights, *d_states]
    return _cast_like(gradients, inputs)


_run_part = compile_op(_forward, _backward)


def _project_table_backward(
    inputs: list[Tensor], _: list[Tensor], upstream: list[Tensor]
) -> list[Tensor]:
    x, kernel, _ = inputs
    return _cast_like(_multiply_and_add_backward(x, kernel, upstream[0]), inputs)


_project_table = compile_op(
    lambda inputs: ([_multiply_and_add(*inputs)], []), _project_table_backward
)


def _cast_like(gradients: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    return [
        None if gradient is None else ops.cast(ops.reshape(gradient, ops.shape(x)), x.dtype)
        for gradient, x in zip(gradients, inputs, strict=True)
    ]


def _multiply_transposed(x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """Return `x^T · y` over all steps, as a gradient of `kernel`."""
    return multiply(ops.transpose(x), ops.cast(y, kernel.dtype))


def _select(condition: Any, chosen: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    condition = condition[:, None]  # (B, 1)
    return [ops.where(condition, x, y) for x, y in zip(chosen, others, strict=True)]
