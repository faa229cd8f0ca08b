"""Recurrent cells, each defined once: its step, its gradient, its Keras layer.

A new recurrence is one `Recurrence`, given to `register_recurrence`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops as keras_ops

from keras_lightrnn._internal.typing import Tensor


@dataclass(frozen=True)
class Recurrence:
    """A recurrent cell.

    Its Keras cell has the weights `kernel` `(D, G H)`, `recurrent_kernel` `(H, G H)` and `bias`,
    `(G H,)` or, of the inputs and of the recurrence, `(2, G H)`, for `G` gates. A step sees both
    products with their biases added, `x` of the inputs and `r` of the hidden state.

    Attributes:
        name: String, by which models name it.
        make_layer: `(units, **kwargs) -> keras.layers.RNN`, which saves, searches and trains on
            every backend.
        num_states: Integer, the number of states `(B, H)`. The first is the output.
        step: `(ops, x, r, states) -> (gates, new states, residuals)`. `x`, `r` and `gates` are
            `(G, B, H)`. `ops` is the namespace of operations to use: `keras.ops`, or `tensorflow`
            for exported models, so names that both have, such as `tanh`, `sigmoid` and `stack`.
        step_gradient: `(list of gates, states, residuals, gradients of the new states) -> (dx,
            dr, gradients of the states)`, without what comes through `r`; `dx` and `dr` are
            `(B, G H)`. `None` where training is to differentiate the Keras layer.
        num_residuals: Integer, how many residuals `(B, H)` a step has.
        adds_products: Boolean, whether a step depends on `x + r` only, so that `dx` and `dr` are
            equal. Training is faster then.
        has_cudnn: Boolean, whether the Keras layer runs on cuDNN on a GPU.

    Example:

    >>> get_recurrence("gru").num_states
    1
    """

    name: str
    make_layer: Callable[..., Any]
    num_states: int
    step: Callable[..., Any]
    step_gradient: Callable[..., Any] | None = None
    num_residuals: int = 0
    adds_products: bool = False
    has_cudnn: bool = False

    def run_step(self, ops: Any, x: Tensor, r: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
        """Return the states after one step.

        Args:
            ops: Namespace of operations, see `step`.
            x: Inputs times the kernel plus its bias, `(B, G H)`.
            r: Hidden state times the recurrent kernel plus its bias, if any, `(B, G H)`.
            states: Before the step, `(B, H)` each.

        Example:

        >>> one = np.float32([[1]])
        >>> [h] = get_recurrence("rnn").run_step(keras_ops, one, -one, [5 * one])
        >>> float(h[0, 0])
        0.0
        """
        units = states[0].shape[-1]
        x, r = (split_gates(ops, y, y.shape[-1] // units) for y in (x, r))
        return self.step(ops, x, r, list(states))[1]


def split_gates(ops: Any, products: Tensor, num_gates: int) -> Tensor:
    """Return the products by gates, `(B, G H) -> (G, B, H)`."""
    units = products.shape[-1] // num_gates
    return ops.transpose(ops.reshape(products, (-1, num_gates, units)), (1, 0, 2))


def _lstm_step(
    ops: Any, x: Tensor, r: Tensor, states: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    _, memory = states
    # All gates at once: sigmoid(z) = tanh(z / 2) / 2 + 1 / 2.
    scale = np.array([0.5, 0.5, 1, 0.5], "float32")[:, None, None]
    scale, shift = ops.convert_to_tensor(scale), ops.convert_to_tensor(1 - scale)
    gates = scale * ops.tanh(scale * (x + r)) + shift  # (4, B, H)
    i, f, c, o = ops.unstack(gates)
    new_memory = f * memory + i * c
    return gates, [o * ops.tanh(new_memory), new_memory], []


def _lstm_step_gradient(
    gates: Tensor, states: list[Tensor], residuals: list[Tensor], gradients: list[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    i, f, c, o = gates
    _, memory = states
    d_hidden, d_memory = gradients
    activated = keras_ops.tanh(f * memory + i * c)
    d_memory = d_memory + d_hidden * o * (1 - activated * activated)
    d_gates = keras_ops.concatenate(
        [
            d_memory * c * i * (1 - i),
            d_memory * memory * f * (1 - f),
            d_memory * i * (1 - c * c),
            d_hidden * activated * o * (1 - o),
        ],
        axis=1,
    )  # (B, 4H)
    return d_gates, d_gates, [keras_ops.zeros_like(d_hidden), d_memory * f]


def _gru_step(
    ops: Any, x: Tensor, r: Tensor, states: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    (hidden,) = states
    update, reset = ops.sigmoid(x[0] + r[0]), ops.sigmoid(x[1] + r[1])
    candidate = ops.tanh(x[2] + reset * r[2])
    new_hidden = update * hidden + (1 - update) * candidate
    return ops.stack([update, reset, candidate]), [new_hidden], [r[2]]


def _gru_step_gradient(
    gates: Tensor, states: list[Tensor], residuals: list[Tensor], gradients: list[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    update, reset, candidate = gates
    (rh,), (hidden,), (d_hidden,) = residuals, states, gradients
    d_candidate = d_hidden * (1 - update) * (1 - candidate * candidate)
    d_update = d_hidden * (hidden - candidate) * update * (1 - update)
    d_reset = d_candidate * rh * reset * (1 - reset)
    dx = keras_ops.concatenate([d_update, d_reset, d_candidate], axis=1)
    dr = keras_ops.concatenate([d_update, d_reset, d_candidate * reset], axis=1)
    return dx, dr, [d_hidden * update]


def _rnn_step(
    ops: Any, x: Tensor, r: Tensor, states: list[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    hidden = ops.tanh(x + r)  # (1, B, H)
    return hidden, [hidden[0]], []


def _rnn_step_gradient(
    gates: Tensor, states: list[Tensor], residuals: list[Tensor], gradients: list[Tensor]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    (hidden,), (d_hidden,) = gates, gradients
    dx = d_hidden * (1 - hidden * hidden)
    return dx, dx, [keras_ops.zeros_like(d_hidden)]


_RECURRENCES: dict[str, Recurrence] = {}


def register_recurrence(recurrence: Recurrence) -> None:
    """Make a recurrence known by its name.

    A cell that is defined again, as when a notebook cell runs twice or a module is reloaded, takes
    the place of the old one: its `step` and its `make_layer` have the same modules and qualified
    names, and no lambda is among them.

    Raises:
        ValueError: if another recurrence has the name.

    Example: a minimal gated unit, whose Keras cell has the weights of two gates.

    >>> def step(ops, x, r, states):
    ...     forget = ops.sigmoid(x[0] + r[0])
    ...     candidate = ops.tanh(x[1] + forget * r[1])
    ...     hidden = (1 - forget) * states[0] + forget * candidate
    ...     return ops.stack([forget, candidate]), [hidden], []
    >>> make_layer = keras.layers.SimpleRNN  # stands for `keras.layers.RNN` of that cell
    >>> register_recurrence(Recurrence("minimal", make_layer, num_states=1, step=step))
    >>> get_recurrence("minimal").num_states
    1
    >>> del _RECURRENCES["minimal"]
    """
    name = recurrence.name
    known = _RECURRENCES.get(name, recurrence)
    is_again = all(
        _identify(getattr(known, part)) == _identify(getattr(recurrence, part))
        for part in ("step", "make_layer")
    )
    if known != recurrence and (name in _BUILT_IN or not is_again):
        raise ValueError(
            f"The name of a recurrence must be new. Received: name={name!r}, which is "
            "registered. Choose another name."
        )
    _RECURRENCES[name] = recurrence


def _identify(function: Callable[..., Any]) -> Any:
    """Return what a function has in common with itself when it is defined again."""
    name = getattr(function, "__qualname__", "<lambda>")
    return function if "<lambda>" in name else (function.__module__, name)


def get_recurrence(name: str) -> Recurrence:
    """Return a recurrence by name: `"lstm"`, `"gru"`, `"rnn"` or a registered one.

    Raises:
        ValueError: if the name is unknown.

    Example:

    >>> get_recurrence("lstm").num_states
    2
    """
    if name not in _RECURRENCES:
        raise ValueError(
            f"`recurrence` must be one of {sorted(_RECURRENCES)}. Received: recurrence={name!r}."
        )
    return _RECURRENCES[name]


for _recurrence in (
    Recurrence(
        "lstm",
        keras.layers.LSTM,
        2,
        _lstm_step,
        _lstm_step_gradient,
        adds_products=True,
        has_cudnn=True,
    ),
    Recurrence("gru", keras.layers.GRU, 1, _gru_step, _gru_step_gradient, 1, has_cudnn=True),
    Recurrence("rnn", keras.layers.SimpleRNN, 1, _rnn_step, _rnn_step_gradient, adds_products=True),
):
    _RECURRENCES[_recurrence.name] = _recurrence
_BUILT_IN = frozenset(_RECURRENCES)
