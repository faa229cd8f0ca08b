"""LSTM and GRU on the weights of the Keras layers, with gradients written by hand.

`keras.layers.LSTM` differentiates a loop, which forms the weight gradient by one small product
a step. Here the backward loop only carries the gradient of the state through time; the weight
gradient is one large product after it. Vectors that come from a small table are projected once
each, however often they occur.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_lightrnn.ops.compiled_op import compile_op
from keras_lightrnn.ops.loops import scan
from keras_lightrnn.ops.products import multiply


def lstm(
    x: Any,
    weights: Sequence[Any],
    states: Sequence[Any],
    mask: Any = None,
    indices: Any = None,
) -> tuple[Any, list[Any]]:
    """Run an LSTM over a sequence, or over vectors of a table in the order of `indices`.

    The equations, weights and masking of `keras.layers.LSTM`, with one difference that no
    later layer sees: a masked step outputs the state that it leaves unchanged. On TensorFlow
    XLA compiles it wherever it is called from. TensorFlow and JAX only.

    Args:
        x: `(L, B, D)`, time first; with `indices`, a table of vectors `(K, D)`.
        weights: `kernel` `(D, 4H)`, `recurrent_kernel` `(H, 4H)` and `bias` `(4H,)`, with the
            gates i, f, c, o. The dtype of the kernels is that of the products; states, sums
            over time and the bias are float32.
        states: Hidden state and memory before the first step, `(B, H)` each.
        mask: `(L, B)` boolean, false where the state is carried over; or `None`.
        indices: `(L, B)` int32: step `t` of sequence `b` reads `x[indices[t, b]]`. The table is
            multiplied by the kernel once, and the products are looked up.

    Returns:
        Hidden states `(L, B, H)`, and the two last states `(B, H)` in a list, float32.
        Differentiable once, by everything but `mask` and `indices`.

    Example:

    >>> import numpy as np
    >>> kernel, recurrent_kernel = np.eye(4, 12, dtype="float32"), np.eye(3, 12, dtype="float32")
    >>> weights, zeros = [kernel, recurrent_kernel, np.zeros(12, "float32")], np.zeros((2, 3))
    >>> hidden, (h, c) = lstm(np.ones((5, 2, 4), "float32"), weights, [zeros, zeros])
    >>> tuple(hidden.shape), bool((np.asarray(hidden)[-1] == np.asarray(h)).all())
    ((5, 2, 3), True)
    """
    hidden, *last = _run([mask, indices, x, *weights, *states], "lstm")
    return hidden, last


def gru(
    x: Any,
    weights: Sequence[Any],
    states: Sequence[Any],
    mask: Any = None,
    indices: Any = None,
) -> tuple[Any, list[Any]]:
    """Run a GRU over a sequence, or over vectors of a table in the order of `indices`.

    As `lstm`, with the equations of `keras.layers.GRU(reset_after=True)`.

    Args:
        x: `(L, B, D)`, time first; with `indices`, a table of vectors `(K, D)`.
        weights: `kernel` `(D, 3H)`, `recurrent_kernel` `(H, 3H)` and `bias` `(2, 3H)`, of the
            inputs and of the recurrence, with the gates z, r, h.
        states: Hidden state before the first step, `(B, H)`, in a list.
        mask: `(L, B)` boolean, false where the state is carried over; or `None`.
        indices: `(L, B)` int32, see `lstm`.

    Returns:
        Hidden states `(L, B, H)`, and the last one `(B, H)` in a list, float32.

    Example:

    >>> import numpy as np
    >>> kernel, recurrent_kernel = np.eye(4, 9, dtype="float32"), np.eye(3, 9, dtype="float32")
    >>> weights, zeros = [kernel, recurrent_kernel, np.zeros((2, 9))], np.zeros((2, 3))
    >>> table, indices = np.ones((6, 4), "float32"), np.int32([[0, 5], [3, 3]])
    >>> hidden, [h] = gru(table, weights, [zeros], indices=indices)
    >>> tuple(hidden.shape), bool((np.asarray(hidden)[-1] == np.asarray(h)).all())
    ((2, 2, 3), True)
    """
    hidden, *last = _run([mask, indices, x, *weights, *states], "gru")
    return hidden, last


class _Cell(NamedTuple):
    """One step of a recurrence and its gradient.

    Attributes:
        step: `(x, r, states) -> (new states, residuals)`, `x` being the inputs and `r` the
            hidden state times the recurrent kernel plus the recurrent bias.
        step_gradient: `(residuals, states, gradients of the new states) ->
            (dx, dr, gradients of the states)`, the last without what comes through `r`.
        num_residuals: How many residuals of size `(B, H)`.
    """

    step: Callable[..., Any]
    step_gradient: Callable[..., Any]
    num_residuals: int


def _lstm_step(x: Any, r: Any, states: list[Any]) -> tuple[list[Any], list[Any]]:
    _, memory = states
    i, f, c, o = ops.split(x + r, 4, axis=1)  # (B, H) each
    i, f, c, o = ops.sigmoid(i), ops.sigmoid(f), ops.tanh(c), ops.sigmoid(o)
    new_memory = f * memory + i * c
    return [o * ops.tanh(new_memory), new_memory], [i, f, c, o]


def _lstm_step_gradient(
    residuals: list[Any], states: list[Any], gradients: list[Any]
) -> tuple[Any, Any, list[Any]]:
    i, f, c, o = residuals
    _, memory = states
    d_hidden, d_memory = gradients
    activated = ops.tanh(f * memory + i * c)
    d_memory = d_memory + d_hidden * o * (1 - activated * activated)
    d_gates = ops.concatenate(
        [
            d_memory * c * i * (1 - i),
            d_memory * memory * f * (1 - f),
            d_memory * i * (1 - c * c),
            d_hidden * activated * o * (1 - o),
        ],
        axis=1,
    )  # (B, 4H)
    return d_gates, d_gates, [ops.zeros_like(d_hidden), d_memory * f]


def _gru_step(x: Any, r: Any, states: list[Any]) -> tuple[list[Any], list[Any]]:
    (hidden,) = states
    xz, xr, xh = ops.split(x, 3, axis=1)
    rz, rr, rh = ops.split(r, 3, axis=1)
    update, reset = ops.sigmoid(xz + rz), ops.sigmoid(xr + rr)
    candidate = ops.tanh(xh + reset * rh)
    new_hidden = update * hidden + (1 - update) * candidate
    return [new_hidden], [update, reset, candidate, rh]


def _gru_step_gradient(
    residuals: list[Any], states: list[Any], gradients: list[Any]
) -> tuple[Any, Any, list[Any]]:
    update, reset, candidate, rh = residuals
    (hidden,) = states
    (d_hidden,) = gradients
    d_candidate = d_hidden * (1 - update) * (1 - candidate * candidate)
    d_update = d_hidden * (hidden - candidate) * update * (1 - update)
    d_reset = d_candidate * rh * reset * (1 - reset)
    dx = ops.concatenate([d_update, d_reset, d_candidate], axis=1)
    dr = ops.concatenate([d_update, d_reset, d_candidate * reset], axis=1)
    return dx, dr, [d_hidden * update]


_CELLS = {
    "lstm": _Cell(_lstm_step, _lstm_step_gradient, num_residuals=4),
    "gru": _Cell(_gru_step, _gru_step_gradient, num_residuals=4),
}


def _forward(inputs: list[Any], cell: str) -> tuple[list[Any], list[Any]]:
    """Return hidden states and last states; and the states and residuals of all steps."""
    mask, indices, x, kernel, recurrent_kernel, bias, *states = inputs
    states = [ops.cast(state, "float32") for state in states]
    bias, *recurrent_bias = _split_bias(bias, kernel)
    # One product of two matrices, whatever the axes of `x` are.
    projected = multiply(ops.reshape(x, (-1, kernel.shape[0])), kernel) + bias  # (L B or K, 4H)
    if indices is None:
        projected = ops.reshape(projected, (*ops.shape(x)[:2], kernel.shape[1]))  # (L, B, 4H)

    def step(states: list[Any], place: list[Any]) -> tuple[list[Any], list[Any]]:
        x, *is_word = place
        if indices is not None:
            # Here and not before the loop: beside a product, XLA may take a look-up of its
            # result as a wish to compute each element that is looked up.
            x = ops.take(projected, x, axis=0)  # (B, 4H)
        r = multiply(states[0], recurrent_kernel)
        if recurrent_bias:
            r = r + recurrent_bias[0]
        new_states, residuals = _CELLS[cell].step(x, r, states)
        if is_word:
            new_states = _select(is_word[0], new_states, states)
        return new_states, [*new_states, *residuals]

    sequences = [projected if indices is None else indices, *([] if mask is None else [mask])]
    num_outputs = len(states) + _CELLS[cell].num_residuals
    last, outputs = scan(step, states, sequences, [states[0].shape] * num_outputs)
    return [outputs[0], *last], outputs


def _backward(inputs: list[Any], outputs: list[Any], upstream: list[Any], cell: str) -> list[Any]:
    """Return the gradients of the inputs; `outputs` are the states and residuals."""
    mask, indices, x, kernel, recurrent_kernel, bias, *first_states = inputs
    d_hidden, *d_last = upstream
    num_states, num_gates = len(first_states), kernel.shape[1]
    has_recurrent_bias = len(_split_bias(bias, kernel)) == 2
    # The states that each step started from.
    previous = [
        ops.concatenate([ops.cast(first, "float32")[None], after[:-1]])
        for first, after in zip(first_states, outputs[:num_states], strict=True)
    ]
    transposed = ops.transpose(recurrent_kernel)

    def step(gradients: list[Any], place: list[Any]) -> tuple[list[Any], list[Any]]:
        d_output, *others = place
        states, residuals = others[:num_states], others[num_states : len(outputs)]
        gradients = [gradients[0] + d_output, *gradients[1:]]
        dx, dr, d_states = _CELLS[cell].step_gradient(residuals, states, gradients)
        d_states[0] = d_states[0] + multiply(dr, transposed)
        if mask is not None:
            is_word = others[-1]
            dx, dr = _select(is_word, [dx, dr], [ops.zeros_like(dx), ops.zeros_like(dr)])
            d_states = _select(is_word, d_states, gradients)
        return d_states, [dx, dr] if has_recurrent_bias else [dx]

    sequences = [d_hidden, *previous, *outputs[num_states:], *([] if mask is None else [mask])]
    shapes = [(d_hidden.shape[1], num_gates)] * (1 + has_recurrent_bias)
    d_states, products = scan(step, d_last, sequences, shapes, reverse=True)

    dx, dr = (ops.reshape(d, (-1, num_gates)) for d in (products[0], products[-1]))  # (L B, 4H)
    hidden = ops.reshape(previous[0], (-1, recurrent_kernel.shape[0]))  # (L B, H)
    d_recurrent_kernel = _multiply_transposed(hidden, dr, recurrent_kernel)
    d_recurrent_bias = [ops.sum(dr, axis=0)] if has_recurrent_bias else []
    if indices is not None:
        dx = ops.segment_sum(dx, ops.reshape(indices, (-1,)), x.shape[0])  # (K, 4H)
    d_kernel = _multiply_transposed(ops.reshape(x, (-1, kernel.shape[0])), dx, kernel)
    d_bias = ops.stack([ops.sum(dx, axis=0), *d_recurrent_bias])
    dx = ops.reshape(multiply(dx, ops.transpose(kernel)), ops.shape(x))
    gradients = [dx, d_kernel, d_recurrent_kernel, d_bias, *d_states]
    floats = [x, kernel, recurrent_kernel, bias, *first_states]
    return [None, None] + [
        ops.cast(ops.reshape(gradient, ops.shape(value)), value.dtype)
        for gradient, value in zip(gradients, floats, strict=True)
    ]


_run = compile_op(_forward, _backward)


def _split_bias(bias: Any, kernel: Any) -> list[Any]:
    """Return the bias of the inputs, `(4H,)`, and that of the recurrence if there is one."""
    biases = ops.reshape(ops.cast(bias, "float32"), (-1, kernel.shape[1]))
    return [biases[index] for index in range(biases.shape[0])]


def _multiply_transposed(x: Any, y: Any, kernel: Any) -> Any:
    """Return `x^T · y` over all steps, as a gradient of `kernel`."""
    return multiply(ops.transpose(x), ops.cast(y, kernel.dtype))


def _select(condition: Any, chosen: list[Any], others: list[Any]) -> list[Any]:
    condition = condition[:, None]  # (B, 1)
    return [ops.where(condition, x, y) for x, y in zip(chosen, others, strict=True)]
