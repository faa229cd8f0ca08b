"""LSTM and GRU on the weights of the Keras layers, with gradients written by hand.

`keras.layers.LSTM` differentiates a loop, which forms the weight gradient by one small product
a step. Here the backward loop only carries the gradient of the state through time; the weight
gradient is one large product after it. Vectors that come from a small table are projected once
each, however often they occur.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
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
    added: Sequence[Any] = (None, None),
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
        added: Vectors `(L, B, K)` and a matrix `(K, 4H)`; their products are added to those of
            the inputs and the kernel.

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
    hidden, *last = _run([mask, indices, *added, x, *weights, *states], "lstm")
    return hidden, last


def gru(
    x: Any,
    weights: Sequence[Any],
    states: Sequence[Any],
    mask: Any = None,
    indices: Any = None,
    added: Sequence[Any] = (None, None),
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
        added: `(L, B, K)` and `(K, 3H)`, see `lstm`.

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
    hidden, *last = _run([mask, indices, *added, x, *weights, *states], "gru")
    return hidden, last


class _Cell(NamedTuple):
    """One step of a recurrence and its gradient.

    Attributes:
        step: `(x, r, states) -> (gates, new states, residuals)`, `x` being the inputs and `r`
            the hidden state times the recurrent kernel plus the recurrent bias. All three of
            `x`, `r` and gates are `(4, B, H)`; a GRU has three gates.
        step_gradient: `(list of gates, states, residuals, gradients of the new states) ->
            (dx, dr, gradients of the states)`, the last without what comes through `r`;
            `dx` and `dr` are `(B, 4H)`.
        num_residuals: How many residuals of size `(B, H)`.
    """

    step: Callable[..., Any]
    step_gradient: Callable[..., Any]
    num_residuals: int


def _lstm_step(x: Any, r: Any, states: list[Any]) -> tuple[Any, list[Any], list[Any]]:
    _, memory = states
    # All gates at once: sigmoid(z) = tanh(z / 2) / 2 + 1 / 2.
    scale = np.array([0.5, 0.5, 1, 0.5], "float32")[:, None, None]
    gates = scale * ops.tanh(scale * (x + r)) + (1 - scale)  # (4, B, H)
    i, f, c, o = gates[0], gates[1], gates[2], gates[3]
    new_memory = f * memory + i * c
    return gates, [o * ops.tanh(new_memory), new_memory], []


def _lstm_step_gradient(
    gates: Any, states: list[Any], residuals: list[Any], gradients: list[Any]
) -> tuple[Any, Any, list[Any]]:
    i, f, c, o = gates
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


def _gru_step(x: Any, r: Any, states: list[Any]) -> tuple[Any, list[Any], list[Any]]:
    (hidden,) = states
    update, reset = ops.sigmoid(x[0] + r[0]), ops.sigmoid(x[1] + r[1])
    candidate = ops.tanh(x[2] + reset * r[2])
    new_hidden = update * hidden + (1 - update) * candidate
    return ops.stack([update, reset, candidate]), [new_hidden], [r[2]]


def _gru_step_gradient(
    gates: Any, states: list[Any], residuals: list[Any], gradients: list[Any]
) -> tuple[Any, Any, list[Any]]:
    update, reset, candidate = gates
    (rh,), (hidden,), (d_hidden,) = residuals, states, gradients
    d_candidate = d_hidden * (1 - update) * (1 - candidate * candidate)
    d_update = d_hidden * (hidden - candidate) * update * (1 - update)
    d_reset = d_candidate * rh * reset * (1 - reset)
    dx = ops.concatenate([d_update, d_reset, d_candidate], axis=1)
    dr = ops.concatenate([d_update, d_reset, d_candidate * reset], axis=1)
    return dx, dr, [d_hidden * update]


_CELLS = {
    "lstm": _Cell(_lstm_step, _lstm_step_gradient, num_residuals=0),
    "gru": _Cell(_gru_step, _gru_step_gradient, num_residuals=1),
}


def _forward(inputs: list[Any], cell: str) -> tuple[list[Any], list[Any]]:
    """Return hidden states and last states; and of all steps what `_backward` needs.

    That is the gates, the hidden state after the step, what other states it started from, and
    the residuals.
    """
    mask, indices, *added, x, kernel, recurrent_kernel, bias = inputs[:8]
    states = inputs[8:]
    states = [ops.cast(state, "float32") for state in states]
    bias, *recurrent_bias = _split_bias(bias, kernel)
    units, size = recurrent_kernel.shape
    num_gates = size // units
    projected = _project(x, indices, kernel, bias, num_gates)  # (L, 4, B, H)
    if added[0] is not None:
        projected += _project(added[0], None, added[1], 0.0, num_gates)

    def step(states: list[Any], place: list[Any]) -> tuple[list[Any], list[Any]]:
        x, *is_word = place
        r = multiply(states[0], recurrent_kernel)
        if recurrent_bias:
            r = r + recurrent_bias[0]
        r = ops.transpose(ops.reshape(r, (-1, num_gates, units)), (1, 0, 2))  # (4, B, H)
        gates, new_states, residuals = _CELLS[cell].step(x, r, states)
        if is_word:
            new_states = _select(is_word[0], new_states, states)
        return new_states, [gates, new_states[0], *states[1:], *residuals]

    sequences = [projected, *([] if mask is None else [mask])]
    num_outputs = len(states) + _CELLS[cell].num_residuals
    shapes = [(num_gates, *states[0].shape)] + [states[0].shape] * num_outputs
    last, outputs = scan(step, states, sequences, shapes, overwrite=True)
    return [outputs[1], *last], outputs


def _project(x: Any, indices: Any, kernel: Any, bias: Any, num_gates: int) -> Any:
    """Return what the inputs of all steps add to the gates, `(L, 4, B, H)`."""
    # One product of two matrices, whatever the axes of `x` are.
    projected = multiply(ops.reshape(x, (-1, kernel.shape[0])), kernel) + bias  # (L B or K, 4H)
    units = kernel.shape[1] // num_gates
    if indices is None:
        projected = ops.reshape(projected, (*ops.shape(x)[:2], num_gates, units))
        return ops.transpose(projected, (0, 2, 1, 3))
    gates = np.arange(num_gates, dtype="int32")[:, None]
    places = num_gates * indices[:, None] + gates  # (L, 4, B)
    return ops.take(ops.reshape(projected, (-1, units)), places, axis=0)


def _backward(inputs: list[Any], outputs: list[Any], upstream: list[Any], cell: str) -> list[Any]:
    """Return the gradients of the inputs; `outputs` are of all steps, see `_forward`."""
    mask, indices, *added, x, kernel, recurrent_kernel, bias = inputs[:8]
    first_states = inputs[8:]
    d_hidden, *d_last = upstream
    num_states, size = len(first_states), kernel.shape[1]
    has_recurrent_bias = len(_split_bias(bias, kernel)) == 2
    gates, hidden, *others = outputs
    # The hidden states that the steps started from.
    previous = ops.concatenate([ops.cast(first_states[0], "float32")[None], hidden[:-1]])
    transposed = ops.transpose(recurrent_kernel)

    def step(gradients: list[Any], place: list[Any]) -> tuple[list[Any], list[Any]]:
        gates, d_output, *others = place
        states, residuals = others[:num_states], others[num_states : len(outputs) - 1]
        gradients = [gradients[0] + d_output, *gradients[1:]]
        dx, dr, d_states = _CELLS[cell].step_gradient(gates, states, residuals, gradients)
        d_states[0] = d_states[0] + multiply(dr, transposed)
        if mask is not None:
            is_word = others[-1]
            dx, dr = _select(is_word, [dx, dr], [ops.zeros_like(dx), ops.zeros_like(dr)])
            d_states = _select(is_word, d_states, gradients)
        return d_states, [dx, dr] if has_recurrent_bias else [dx]

    sequences = [gates, d_hidden, previous, *others, *([] if mask is None else [mask])]
    shapes = [(d_hidden.shape[1], size)] * (1 + has_recurrent_bias)
    d_states, products = scan(step, d_last, sequences, shapes, reverse=True, unstack=True)

    dx, dr = (ops.reshape(d, (-1, size)) for d in (products[0], products[-1]))  # (L B, 4H)
    hidden = ops.reshape(previous, (-1, recurrent_kernel.shape[0]))  # (L B, H)
    d_recurrent_kernel = _multiply_transposed(hidden, dr, recurrent_kernel)
    d_recurrent_bias = [ops.sum(dr, axis=0)] if has_recurrent_bias else []
    d_added = [None, None]
    if added[0] is not None:
        vectors = ops.reshape(added[0], (-1, added[1].shape[0]))  # (L B, K)
        d_added = [
            multiply(dx, ops.transpose(added[1])),
            _multiply_transposed(vectors, dx, added[1]),
        ]
    if indices is not None:
        dx = ops.segment_sum(dx, ops.reshape(indices, (-1,)), x.shape[0])  # (K, 4H)
    d_kernel = _multiply_transposed(ops.reshape(x, (-1, kernel.shape[0])), dx, kernel)
    d_bias = ops.stack([ops.sum(dx, axis=0), *d_recurrent_bias])
    dx = ops.reshape(multiply(dx, ops.transpose(kernel)), ops.shape(x))
    gradients = [*d_added, dx, d_kernel, d_recurrent_kernel, d_bias, *d_states]
    return [None, None] + [
        None if value is None else ops.cast(ops.reshape(gradient, ops.shape(value)), value.dtype)
        for gradient, value in zip(gradients, inputs[2:], strict=True)
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
