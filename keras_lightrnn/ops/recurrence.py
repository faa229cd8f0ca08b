"""LSTM and GRU over projected inputs, with gradients written by hand.

`keras.layers.LSTM` differentiates a loop, which forms the weight gradient by one small product
a step. Here the backward loop only carries the gradient of the state through time; the weight
gradient is one large product after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_lightrnn.ops.loops import compile_function, scan
from keras_lightrnn.ops.products import multiply


def lstm(
    inputs: Any, recurrent_kernel: Any, states: Sequence[Any], mask: Any = None
) -> tuple[Any, list[Any]]:
    """Run an LSTM over inputs that have been multiplied by its kernel already.

    The equations, gate order and masking of `keras.layers.LSTM`, with one difference that no
    later layer sees: a masked step outputs the state it leaves unchanged.

    Args:
        inputs: `(L, B, 4H)`, time first: `x · kernel + bias` for the gates i, f, c, o.
        recurrent_kernel: `(H, 4H)`. Its dtype is that of the products; sums are float32.
        states: Hidden state and memory before the first step, `(B, H)` each.
        mask: `(L, B)` boolean, false where the state is carried over; or `None`.

    Returns:
        Hidden states `(L, B, H)`, and the two last states `(B, H)` in a list, float32.
        Differentiable once, by everything but the mask.

    Example:

    >>> import numpy as np
    >>> zeros = np.zeros((2, 3), "float32")
    >>> hidden, (h, c) = lstm(np.ones((5, 2, 12), "float32"), np.eye(3, 12), (zeros, zeros))
    >>> tuple(hidden.shape), bool((np.asarray(hidden)[-1] == np.asarray(h)).all())
    ((5, 2, 3), True)
    """
    return _run("lstm", inputs, [recurrent_kernel], states, mask)


def gru(
    inputs: Any, recurrent_kernel: Any, recurrent_bias: Any, states: Sequence[Any], mask: Any = None
) -> tuple[Any, list[Any]]:
    """Run a GRU over inputs that have been multiplied by its kernel already.

    As `lstm`, with the equations and gate order of `keras.layers.GRU(reset_after=True)`.

    Args:
        inputs: `(L, B, 3H)`, time first: `x · kernel + bias[0]` for the gates z, r, h.
        recurrent_kernel: `(H, 3H)`.
        recurrent_bias: `(3H,)`, the `bias[1]` of `keras.layers.GRU`.
        states: Hidden state before the first step, `(B, H)`, in a list.
        mask: `(L, B)` boolean, false where the state is carried over; or `None`.

    Returns:
        Hidden states `(L, B, H)`, and the last one `(B, H)` in a list, float32.

    Example:

    >>> import numpy as np
    >>> zeros, bias = np.zeros((2, 3), "float32"), np.zeros(9, "float32")
    >>> hidden, [h] = gru(np.ones((5, 2, 9), "float32"), np.eye(3, 9), bias, [zeros])
    >>> tuple(hidden.shape), bool((np.asarray(hidden)[-1] == np.asarray(h)).all())
    ((5, 2, 3), True)
    """
    return _run("gru", inputs, [recurrent_kernel, recurrent_bias], states, mask)


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


@compile_function
def _run(
    cell: str, inputs: Any, weights: list[Any], states: Any, mask: Any
) -> tuple[Any, list[Any]]:
    num_weights = len(weights)

    @ops.custom_gradient
    def run(inputs: Any, *others: Any) -> Any:
        weights, states = others[:num_weights], others[num_weights : num_weights + len(first)]
        hidden, last, residuals = _forward(cell, inputs, weights, states, mask)

        def gradient(*upstream: Any) -> Any:
            d_hidden, *d_last = keras.tree.flatten(upstream)
            return tuple(_backward(cell, weights, states, mask, residuals, d_hidden, d_last))

        return (hidden, *last), gradient

    first = [ops.cast(state, "float32") for state in states]
    hidden, *last = run(ops.cast(inputs, "float32"), *weights, *first)
    return hidden, last


def _forward(cell: str, inputs: Any, weights: Any, states: Any, mask: Any) -> Any:
    """Return hidden states, the last states, and what the gradient needs, time first."""
    kernel, *bias = weights
    num_states = len(states)

    def step(states: list[Any], inputs: list[Any]) -> tuple[list[Any], list[Any]]:
        x, *is_word = inputs
        r = multiply(states[0], kernel)
        new_states, residuals = _CELLS[cell].step(x, r + bias[0] if bias else r, states)
        if is_word:
            new_states = _select(is_word[0], new_states, states)
        return new_states, [*new_states, *residuals]

    shape = states[0].shape
    last, outputs = scan(
        step,
        list(states),
        [inputs] if mask is None else [inputs, mask],
        [shape] * (num_states + _CELLS[cell].num_residuals),
    )
    return outputs[0], last, outputs


def _backward(
    cell: str,
    weights: Any,
    states: Any,
    mask: Any,
    residuals: Any,
    d_hidden: Any,
    d_last: Any,
) -> list[Any]:
    """Return the gradients of the inputs, the weights and the first states."""
    kernel, *bias = weights
    num_states, num_residuals = len(states), _CELLS[cell].num_residuals
    # The states that each step started from.
    previous = [
        ops.concatenate([first[None], after[:-1]])
        for first, after in zip(states, residuals[:num_states], strict=True)
    ]
    transposed = ops.transpose(kernel)

    def step(gradients: list[Any], inputs: list[Any]) -> tuple[list[Any], list[Any]]:
        d_output, *others = inputs
        states, residuals = others[:num_states], others[num_states : num_states + num_residuals]
        gradients = [gradients[0] + d_output, *gradients[1:]]
        dx, dr, d_states = _CELLS[cell].step_gradient(residuals, states, gradients)
        d_states[0] = d_states[0] + multiply(dr, transposed)
        if mask is not None:
            is_word = others[-1]
            dx, dr = _select(is_word, [dx, dr], [ops.zeros_like(dx), ops.zeros_like(dr)])
            d_states = _select(is_word, d_states, gradients)
        return d_states, [dx] if len(bias) == 0 else [dx, dr]

    shape = (*states[0].shape[:-1], kernel.shape[1])
    d_states, outputs = scan(
        step,
        list(d_last),
        [d_hidden, *previous, *residuals[num_states:], *([] if mask is None else [mask])],
        [shape] * (1 + len(bias)),
        reverse=True,
    )
    dr = ops.reshape(outputs[-1], (-1, kernel.shape[1]))  # (L * B, 4H)
    before = ops.reshape(previous[0], (-1, kernel.shape[0]))  # (L * B, H)
    d_kernel = multiply(ops.transpose(before), ops.cast(dr, kernel.dtype))
    d_bias = [ops.sum(dr, axis=0)] if bias else []
    return [outputs[0], ops.cast(d_kernel, kernel.dtype), *d_bias, *d_states]


def _select(condition: Any, chosen: list[Any], others: list[Any]) -> list[Any]:
    condition = condition[:, None]  # (B, 1)
    return [ops.where(condition, x, y) for x, y in zip(chosen, others, strict=True)]
