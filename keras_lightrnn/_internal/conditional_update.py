"""Updates of variables in a compiled step that can be turned on and off between steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.typing import Tensor


def update_if(
    condition: Tensor, update: Callable[[], None], variables: Iterable[keras.Variable]
) -> None:
    """Call a function that updates variables if a condition holds when the step runs.

    Args:
        condition: Boolean tensor, a scalar.
        update: Function without arguments and result. It must change nothing else, and read no
            other variables.
        variables: The variables that it changes.

    Example:

    >>> total = keras.Variable(1.0)
    >>> for condition in (True, False):
    ...     update_if(ops.convert_to_tensor(condition), lambda: total.assign(total + 2), [total])
    >>> float(total)
    3.0
    """
    if keras.backend.backend() != "jax":
        ops.cond(condition, lambda: _return_zero(update), lambda: ops.zeros((), "int32"))
        return
    # A branch of JAX returns its changes.
    variables = list(variables)
    values = [ops.convert_to_tensor(variable) for variable in variables]

    def compute_values() -> list[Any]:
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            update()
        return [scope.get_current_value(variable) for variable in variables]

    new_values = ops.cond(condition, compute_values, lambda: values)
    for variable, value in zip(variables, new_values, strict=True):
        variable.assign(value)


def _return_zero(update: Callable[[], None]) -> Any:
    update()
    return ops.zeros((), "int32")
