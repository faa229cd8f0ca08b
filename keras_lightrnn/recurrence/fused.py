"""LSTM, GRU and simple RNN on the weights of the Keras layers, with gradients written by hand.

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
    num_parts: int = 1,
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
        num_parts: Integer. The batch is run in so many parts, each a program of its own, which
            TensorFlow runs at the same time. A loop keeps one core busy but for its products;
            two parts keep two. XLA, inside of a step that it compiles, runs them by turns.

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
    kernel, recurrent_kernel, bias = weights
    all_weights = [kernel, bias, recurrent_kernel, None]
    return _run(x, all_weights, states, mask, indices, added, num_parts, "lstm")


def gru(
    x: Any,
    weights: Sequence[Any],
    states: Sequence[Any],
    mask: Any = None,
    indices: Any = None,
    added: Sequence[Any] = (None, None),
    num_parts: int = 1,
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
        num_parts: Integer, see `lstm`.

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
    kernel, recurrent_kernel, biases = weights
    all_weights = [kernel, biases[0], recurrent_kernel, biases[1]]
    return _run(x, all_weights, states, mask, indices, added, num_parts, "gru")


def rnn(
    x: Any,
    weights: Sequence[Any],
    states: Sequence[Any],
    mask: Any = None,
    indices: Any = None,
    added: Sequence[Any] = (None, None),
    num_parts: int = 1,
) -> tuple[Any, list[Any]]:
    """Run a simple RNN over a sequence, or over vectors of a table in the order of `indices`.

    As `lstm`, with the equations of `keras.layers.SimpleRNN`.

    Args:
        x: `(L, B, D)`, time first; with `indices`, a table of vectors `(K, D)`.
        weights: `kernel` `(D, H)`, `recurrent_kernel` `(H, H)` and `bias` `(H,)`.
        states: Hidden state before the first step, `(B, H)`, in a list.
        mask: `(L, B)` boolean, false where the state is carried over; or `None`.
        indices: `(L, B)` int32, see `lstm`.
        added: `(L, B, K)` and `(K, H)`, see `lstm`.
        num_parts: Integer, see `lstm`.

    Returns:
        Hidden states `(L, B, H)`, and the last one `(B, H)` in a list, float32.
        Differentiable once, by everything but `mask` and `indices`.

    Example:

    >>> import numpy as np
    >>> weights = [np.eye(2, dtype="float32"), np.eye(2, dtype="float32"), np.zeros(2)]
    >>> hidden, [h] = rnn(np.zeros((3, 1, 2), "float32"), weights, [np.ones((1, 2))])
    >>> [round(float(x), 3) for x in np.asarray(hidden)[:, 0, 0]]
    [0.762, 0.642, 0.566]
    """
    kernel, recurrent_kernel, bias = weights
    all_weights = [kernel, bias, recurrent_kernel, None]
    return _run(x, all_weights, states, mask, indices, added, num_parts, "rnn")


def run_step(recurrence: str, x: Any, r: Any, states: Sequence[Any]) -> list[Any]:
    """Run one step of which both products are known. On every Keras backend.

    Args:
        recurrence: `"lstm"`, `"gru"` or `"rnn"`.
        x: Inputs times the kernel plus its bias, `(B, 4H)`; of a GRU `(B, 3H)`, of a simple
            recurrence `(B, H)`.
        r: Hidden state times the recurrent kernel plus, of a GRU, its bias; likewise.
        states: Before the step, `(B, H)` each.

    Returns:
        The states after it.

    Example:

    >>> import numpy as np
    >>> [h] = run_step("rnn", np.float32([[1]]), np.float32([[-1]]), [np.float32([[5]])])
    >>> float(h[0, 0])
    0.0
    """
    units = states[0].shape[-1]
    x, r = (_split_gates(y, y.shape[-1] // units) for y in (x, r))
    return _RECURRENCES[recurrence].step(x, r, list(states))[1]


def _run(
    x: Any,
    weights: list[Any],
    states: Sequence[Any],
    mask: Any,
    indices: Any,
    added: Sequence[Any],
    num_parts: int,
    recurrence: str,
) -> tuple[Any, list[Any]]:
    """Run it with `weights`: kernel, bias, recurrent kernel and, or `None`, recurrent bias."""
    kernel, bias, *recurrent_weights = weights
    table = None
    if indices is not None:  # once for all parts
        [table], x, kernel, bias = _project_table([x, kernel, bias]), None, None, None
    sequences = [mask, indices, x, added[0]]  # (L, B, ...)
    shared = [table, kernel, bias, added[1], *recurrent_weights]
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


class _Recurrence(NamedTuple):
    """One step of a recurrence and its gradient.

    Attributes:
        step: `(x, r, states) -> (gates, new states, residuals)`, `x` being the inputs and `r`
            the hidden state times the recurrent kernel plus the recurrent bias. All three of
            `x`, `r` and gates are `(4, B, H)`; a GRU has three gates, a simple recurrence one.
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
    scale = ops.convert_to_tensor(np.array([0.5, 0.5, 1, 0.5], "float32")[:, None, None])
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


def _rnn_step(x: Any, r: Any, states: list[Any]) -> tuple[Any, list[Any], list[Any]]:
    hidden = ops.tanh(x + r)  # (1, B, H)
    return hidden, [hidden[0]], []


def _rnn_step_gradient(
    gates: Any, states: list[Any], residuals: list[Any], gradients: list[Any]
) -> tuple[Any, Any, list[Any]]:
    (hidden,), (d_hidden,) = gates, gradients
    dx = d_hidden * (1 - hidden * hidden)
    return dx, dx, [ops.zeros_like(d_hidden)]


_RECURRENCES = {
    "lstm": _Recurrence(_lstm_step, _lstm_step_gradient, num_residuals=0),
    "gru": _Recurrence(_gru_step, _gru_step_gradient, num_residuals=1),
    "rnn": _Recurrence(_rnn_step, _rnn_step_gradient, num_residuals=0),
}


def _forward(inputs: list[Any], recurrence: str) -> tuple[list[Any], list[Any]]:
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

    def step(states: list[Any], place: list[Any]) -> tuple[list[Any], list[Any]]:
        x, *is_word = place
        r = multiply(states[0], recurrent_kernel)
        if recurrent_bias is not None:
            r = r + ops.cast(recurrent_bias, "float32")
        r = _split_gates(r, num_gates)
        gates, new_states, residuals = _RECURRENCES[recurrence].step(x, r, states)
        if is_word:
            new_states = _select(is_word[0], new_states, states)
        return new_states, [gates, new_states[0], *states[1:], *residuals]

    sequences = [projected, *([] if mask is None else [mask])]
    num_outputs = len(states) + _RECURRENCES[recurrence].num_residuals
    shapes = [(num_gates, *states[0].shape)] + [states[0].shape] * num_outputs
    last, outputs = scan(step, states, sequences, shapes, overwrite=True)
    return [outputs[1], *last], outputs


def _split_gates(products: Any, num_gates: int) -> Any:
    """Return what `(B, 4H)` holds by gates, `(4, B, H)`."""
    units = products.shape[-1] // num_gates
    return ops.transpose(ops.reshape(products, (-1, num_gates, units)), (1, 0, 2))


def _project(x: Any, kernel: Any, bias: Any, num_gates: int) -> Any:
    """Return what the inputs of all steps add to the gates, `(L, 4, B, H)`."""
    projected = _multiply_and_add(x, kernel, bias)  # (L, B, 4H)
    units = kernel.shape[1] // num_gates
    gates = ops.reshape(projected, (*ops.shape(x)[:2], num_gates, units))
    return ops.transpose(gates, (0, 2, 1, 3))


def _look_up(projected: Any, indices: Any, num_gates: int) -> Any:
    """Return the same from the projected vectors of a table, `(K, 4H)`."""
    gates = np.arange(num_gates, dtype="int32")[:, None]
    places = num_gates * indices[:, None] + gates  # (L, 4, B)
    units = projected.shape[1] // num_gates
    return ops.take(ops.reshape(projected, (-1, units)), places, axis=0)


def _multiply_and_add(x: Any, kernel: Any, bias: Any) -> Any:
    # One product of two matrices, whatever the axes of `x` are.
    product = multiply(ops.reshape(x, (-1, kernel.shape[0])), kernel) + ops.cast(bias, "float32")
    return ops.reshape(product, (*ops.shape(x)[:-1], kernel.shape[1]))


def _multiply_and_add_backward(x: Any, kernel: Any, upstream: Any) -> list[Any]:
    """Return the gradients of vectors `(..., D)`, kernel and bias; `upstream` is `(N, 4H)`."""
    vectors = ops.reshape(x, (-1, kernel.shape[0]))
    dx = ops.reshape(multiply(upstream, ops.transpose(kernel)), ops.shape(x))
    return [dx, _multiply_transposed(vectors, upstream, kernel), ops.sum(upstream, axis=0)]


def _backward(
    inputs: list[Any], outputs: list[Any], upstream: list[Any], recurrence: str
) -> list[Any]:
    """Return the gradients of the inputs; `outputs` are of all steps, see `_forward`."""
    mask, indices, x, vectors, table, kernel, _, added_kernel = inputs[:8]
    recurrent_kernel, recurrent_bias, *first_states = inputs[8:]
    d_hidden, *d_last = upstream
    num_states, size = len(first_states), recurrent_kernel.shape[1]
    has_recurrent_bias = recurrent_bias is not None
    gates, hidden, *others = outputs
    # The hidden states that the steps started from.
    previous = ops.concatenate([ops.cast(first_states[0], "float32")[None], hidden[:-1]])
    transposed = ops.transpose(recurrent_kernel)

    def step(gradients: list[Any], place: list[Any]) -> tuple[list[Any], list[Any]]:
        gates, d_output, *others = place
        states, residuals = others[:num_states], others[num_states : len(outputs) - 1]
        gradients = [gradients[0] + d_output, *gradients[1:]]
        dx, dr, d_states = _RECURRENCES[recurrence].step_gradient(
            gates, states, residuals, gradients
        )
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
    d_recurrent_bias = ops.sum(dr, axis=0) if has_recurrent_bias else None
    d_vectors = d_added_kernel = d_table = d_x = d_kernel = d_bias = None
    if vectors is not None:
        d_vectors, d_added_kernel, _ = _multiply_and_add_backward(vectors, added_kernel, dx)
    if table is not None:
        d_table = ops.segment_sum(dx, ops.reshape(indices, (-1,)), table.shape[0])  # (K, 4H)
    else:
        d_x, d_kernel, d_bias = _multiply_and_add_backward(x, kernel, dx)
    of_sequences = [None, None, d_x, d_vectors]
    of_weights = [d_table, d_kernel, d_bias, d_added_kernel, d_recurrent_kernel, d_recurrent_bias]
    gradients = [*of_sequences, *of_weights, *d_states]
    return _cast_like(gradients, inputs)


_run_part = compile_op(_forward, _backward)


def _project_table_backward(inputs: list[Any], _: list[Any], upstream: list[Any]) -> list[Any]:
    x, kernel, _ = inputs
    return _cast_like(_multiply_and_add_backward(x, kernel, upstream[0]), inputs)


_project_table = compile_op(
    lambda inputs: ([_multiply_and_add(*inputs)], []), _project_table_backward
)


def _cast_like(gradients: list[Any], inputs: list[Any]) -> list[Any]:
    return [
        None if gradient is None else ops.cast(ops.reshape(gradient, ops.shape(x)), x.dtype)
        for gradient, x in zip(gradients, inputs, strict=True)
    ]


def _multiply_transposed(x: Any, y: Any, kernel: Any) -> Any:
    """Return `x^T · y` over all steps, as a gradient of `kernel`."""
    return multiply(ops.transpose(x), ops.cast(y, kernel.dtype))


def _select(condition: Any, chosen: list[Any], others: list[Any]) -> list[Any]:
    condition = condition[:, None]  # (B, 1)
    return [ops.where(condition, x, y) for x, y in zip(chosen, others, strict=True)]
