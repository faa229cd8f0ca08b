"""Totals that stay exact."""

from __future__ import annotations

from keras import ops

from keras_lightrnn._internal.typing import Tensor


def add_compensated(total: Tensor, rest: Tensor, value: Tensor) -> None:
    """Add `value` to `total + rest`, where `rest` is the rounding error (Knuth's two-sum)."""
    old = ops.convert_to_tensor(total)
    new = old + value
    added = new - old
    # `rest` is assigned first: on TensorFlow `old` is the variable itself and changes with it.
    lost = (old - (new - added)) + (value - added)
    rest.assign(rest + ops.where(ops.isfinite(new), lost, 0.0))
    total.assign(new)
