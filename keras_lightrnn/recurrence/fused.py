"""Recurrences on the weights of the Keras layers, with gradients written by hand.

`keras.layers.LSTM` differentiates a loop, which forms the weight gradient by one small product
a step. Here the backward loop only carries the gradient of the state through time; the weight
gradient is one large product after it. Vectors that come from a small table are projected once
each, however often they occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_lightrnn._internal.typing import Tensor
from keras_lightrnn.ops.compiled_op import compile_op
from keras_lightrnn.ops.loops import scan
from keras_lightrnn.ops.products import multiply
from keras_lightrnn.recurrence.kinds import Recurrence, split_gates


class ProductSums(NamedTuple):
    """Inputs of a recurrence that are sums of products with its kernel, looked up in a table.

    Attributes:
        table: `(K, G H)` float32 for `G` gates, of `multiply_table`.
        indices: `(B, L, n)` int32: step `t` of sequence `b` reads the sum of the `n` products
            `table[indices[b, t]]`.
        vectors: `(B, L, k)`, whose products with `kernel` are added; or `None`.
        kernel: `(k, G H)`, or `None`.
    """

    table: Tensor
    indices: Tensor
    vectors: Tensor | None = None
    kernel: Tensor | None = None


def multiply_table(table: Tensor, weights: Sequence[Tensor], num_vectors: int) -> Tensor:
    """Return the products of vectors with the kernel of a recurrence, for `ProductSums`.

    Args:
        table: Vectors `(K, D)`.
        weights: See `run_recurrence`.
        num_vectors: Integer, how many products add up in a step. Each has its share of the bias.

    Example:

    >>> import numpy as np
    >>> kernel, recurrent_kernel = np.eye(4, 12, dtype="float32"), np.eye(3, 12, dtype="float32")
    >>> weights = [kernel, recurrent_kernel, np.zeros(12, "float32")]
    >>> tuple(multiply_table(np.ones((7, 4), "float32"), weights, num_vectors=2).shape)
    (7, 12)
    """
    kernel, _, bias = weights
    bias, _ = split_bias(bias)
    return _multiply_table([table, kernel, bias / num_vectors])[0]


def run_recurrence(
    recurrence: Recurrence,
    x: Tensor | ProductSums,
    weights: Sequence[Tensor],
    states: Sequence[Tensor],
    mask: Tensor = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run a recurrence over sequences.

    The equations, weights and masking of its Keras layer, with one difference that no later
    layer sees: a masked step outputs the state that it leaves unchanged. On TensorFlow XLA
    compiles it wherever it is called from. TensorFlow and JAX only.

    Args:
        recurrence: `Recurrence` with a `step_gradient`.
        x: `(B, L, D)`, or `ProductSums`.
        weights: `kernel` `(D, G H)`, `recurrent_kernel` `(H, G H)` and `bias` `(G H,)` for `G`
            gates; or `bias` `(2, G H)`, of the inputs and of the recurrence. The dtype of the
            kernels is that of the products; states, sums over time and the bias are float32.
        states: The states before the first step, `(B, H)` each.
        mask: `(B, L)` boolean, false where the states are carried over; or `None`.

    Returns:
        Hidden states `(B, L, H)`, and the last states `(B, H)` in a list, float32.
        Differentiable once, by everything but `mask` and `indices`.

    Example:

    >>> import numpy as np
    >>> from keras_lightrnn.recurrence.kinds import get_recurrence
    >>> kernel, recurrent_kernel = np.eye(4, 12, dtype="float32"), np.eye(3, 12, dtype="float32")
    >>> weights, zeros = [kernel, recurrent_kernel, np.zeros(12, "float32")], np.zeros((2, 3))
    >>> x = np.ones((2, 5, 4), "float32")
    >>> hidden, (h, c) = run_recurrence(get_recurrence("lstm"), x, weights, [zeros, zeros])
    >>> tuple(hidden.shape), bool((np.asarray(hidden)[:, -1] == np.asarray(h)).all())
    ((2, 5, 3), True)
    """
    kernel, recurrent_kernel, bias = weights
    bias, recurrent_bias = split_bias(bias)
    if isinstance(x, ProductSums):  # the products have the bias
        of_inputs = [None, None, None, *x]
    else:
        of_inputs = [x, kernel, bias, None, None, None, None]
    inputs = [mask, *of_inputs, recurrent_kernel, recurrent_bias, *states]
    hidden, *last = _run(inputs, recurrence)
    return hidden, last


def split_bias(bias: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the bias of the inputs and, or `None`, that of the recurrence."""
    return (bias[0], bias[1]) if len(bias.shape) == 2 else (bias, None)


def _forward(inputs: list[Tensor], recurrence: Recurrence) -> tuple[list[Tensor], list[Tensor]]:
    """Return hidden states and last states; and of all steps what `_backward` needs.

    That is the gates, the hidden state after the step, what other states it started from, and
    the residuals.
    """
    mask, x, kernel, bias, table, indices, vectors, added_kernel = inputs[:8]
    recurrent_kernel, recurrent_bias, *states = inputs[8:]
    states = [ops.cast(state, "float32") for state in states]
    units, size = recurrent_kernel.shape
    num_gates = size // units
    if table is None:
        projected = _multiply_steps(x, kernel, bias, num_gates)  # (L, 4, B, H)
    else:
        projected = _look_up(table, indices, num_gates)
    if vectors is not None:
        projected += _multiply_steps(vectors, added_kernel, 0.0, num_gates)

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

    sequences = [projected, *([] if mask is None else [ops.transpose(mask)])]
    num_outputs = len(states) + recurrence.num_residuals
    shapes = [(num_gates, *states[0].shape)] + [states[0].shape] * num_outputs
    last, outputs = scan(step, states, sequences, shapes, overwrite=True)
    return [_swap_time(outputs[1]), *last], outputs


def _multiply_steps(x: Tensor, kernel: Tensor, bias: Tensor, num_gates: int) -> Tensor:
    """Return what the inputs of all steps add to the gates, `(L, 4, B, H)`."""
    products = _multiply_and_add(x, kernel, bias)  # (B, L, 4H)
    units = kernel.shape[1] // num_gates
    gates = ops.reshape(products, (*ops.shape(x)[:2], num_gates, units))
    return ops.transpose(gates, (1, 2, 0, 3))


def _look_up(table: Tensor, indices: Tensor, num_gates: int) -> Tensor:
    """Return the same from the products in a table, `(K, 4H)`."""
    gates = np.arange(num_gates, dtype="int32")[:, None]
    vectors = ops.reshape(table, (-1, table.shape[1] // num_gates))
    indices = _swap_time(indices)  # (L, B, n)
    places = (num_gates * indices[:, None, :, n] + gates for n in range(indices.shape[-1]))
    first, *others = (ops.take(vectors, x, axis=0) for x in places)  # (L, 4, B, H) each
    return sum(others, first)


def _swap_time(x: Tensor) -> Tensor:
    """Return `(B, L, ...)` as `(L, B, ...)`, or the reverse."""
    return ops.transpose(x, (1, 0, *range(2, len(x.shape))))


def _multiply_and_add(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    # One product of two matrices, whatever the axes of `x` are.
    product = multiply(ops.reshape(x, (-1, kernel.shape[0])), kernel) + ops.cast(bias, "float32")
    return ops.reshape(product, (*ops.shape(x)[:-1], kernel.shape[1]))


def _backward(
    inputs: list[Tensor], outputs: list[Tensor], upstream: list[Tensor], recurrence: Recurrence
) -> list[Tensor]:
    """Return the gradients of the inputs; `outputs` are of all steps, see `_forward`."""
    mask, x, kernel, _, table, indices, vectors, added_kernel = inputs[:8]
    recurrent_kernel, recurrent_bias, *first_states = inputs[8:]
    d_hidden, *d_last = upstream
    d_hidden = _swap_time(d_hidden)
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

    sequences = [
        gates,
        d_hidden,
        previous,
        *others,
        *([] if mask is None else [ops.transpose(mask)]),
    ]
    shapes = [(d_hidden.shape[1], size)] * (1 if recurrence.adds_products else 2)
    d_states, products = scan(step, d_last, sequences, shapes, reverse=True, unstack=True)

    dx, dr = (ops.reshape(d, (-1, size)) for d in (products[0], products[-1]))  # (L B, 4H)
    hidden = ops.reshape(previous, (-1, recurrent_kernel.shape[0]))  # (L B, H)
    d_recurrent_kernel = _multiply_transposed(hidden, dr, recurrent_kernel)
    d_recurrent_bias = ops.sum(dr, axis=0) if has_recurrent_bias else None
    d_x = d_kernel = d_bias = d_table = d_vectors = d_added_kernel = None
    if table is None:
        d_x, d_kernel = _multiply_steps_backward(x, kernel, dx)
        d_bias = ops.sum(dx, axis=0)
    else:
        places = _swap_time(indices)
        first, *others = (
            ops.segment_sum(dx, ops.reshape(places[..., n], (-1,)), table.shape[0])
            for n in range(indices.shape[-1])
        )
        d_table = sum(others, first)  # (K, 4H)
    if vectors is not None:
        d_vectors, d_added_kernel = _multiply_steps_backward(vectors, added_kernel, dx)
    of_inputs = [None, d_x, d_kernel, d_bias, d_table, None, d_vectors, d_added_kernel]
    return _cast_like([*of_inputs, d_recurrent_kernel, d_recurrent_bias, *d_states], inputs)


_run = compile_op(_forward, _backward)


def _multiply_steps_backward(x: Tensor, kernel: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of vectors `(B, L, D)` and a kernel; `upstream` is `(L B, 4H)`."""
    size = kernel.shape[0]
    vectors = _swap_time(x)  # (L, B, D)
    dx = ops.reshape(multiply(upstream, ops.transpose(kernel)), ops.shape(vectors))
    return _swap_time(dx), _multiply_transposed(ops.reshape(vectors, (-1, size)), upstream, kernel)


def _multiply_table_backward(
    inputs: list[Tensor], _: list[Tensor], upstream: list[Tensor]
) -> list[Tensor]:
    table, kernel, _ = inputs
    [d_products] = upstream
    gradients = [
        multiply(d_products, ops.transpose(kernel)),
        _multiply_transposed(table, d_products, kernel),
        ops.sum(d_products, axis=0),
    ]
    return _cast_like(gradients, inputs)


_multiply_table = compile_op(
    lambda inputs: ([_multiply_and_add(*inputs)], []), _multiply_table_backward
)


def _cast_like(gradients: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    return [
        None if gradient is None else ops.cast(ops.reshape(gradient, ops.shape(x)), x.dtype)
        for gradient, x in zip(gradients, inputs, strict=True)
    ]


def _multiply_transposed(x: Tensor, y: Tensor, kernel: Tensor) -> Tensor:
    """Return `x^T · y` over all steps, as a gradient of `kernel`."""
    return multiply(ops.transpose(x), ops.cast(y, kernel.dtype))


def _select(condition: Tensor, chosen: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    condition = condition[:, None]  # (B, 1)
    return [ops.where(condition, x, y) for x, y in zip(chosen, others, strict=True)]
