"""Variables that are computed from other variables."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from keras_lightrnn._internal.keras_internals import (
    RestoredVariable,
    check_has_value,
    has_value,
)


class LinkedVariable(RestoredVariable):
    """Variable that is not trained, from which `DerivedVariable`s are computed.

    They are recomputed whenever it is assigned: by a layer, by `set_weights` or by a checkpoint.

    Args:
        initializer: Callable `(shape, dtype) -> tensor`.
        shape: Shape of the value.
        dtype: Dtype of the value.
        name: Name of the variable.
    """

    def __init__(
        self, initializer: Callable[..., Any], shape: Sequence[int], dtype: str, name: str
    ) -> None:
        # Weak references, because a table outlives the layers that use it.
        self._derived: list[weakref.ref[DerivedVariable]] = []
        # The value of the first replica counts: replicas must never hold different tables.
        super().__init__(
            initializer,
            shape=shape,
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def value(self) -> Any:
        check_has_value(self)
        return super().value

    def assign(self, value: Any) -> Any:
        value = super().assign(value)
        self._update_derived()
        return value

    def on_restore(self) -> None:
        self._update_derived()

    def _update_derived(self) -> None:
        for derived in [reference() for reference in self._derived]:
            # After `fit` on JAX the values come back one by one.
            if derived is not None and all(map(has_value, derived.sources)):
                derived.assign(derived.compute())


class DerivedVariable(LinkedVariable):
    """Variable whose value is always `compute()`, so that no step has to compute it.

    Compiled functions treat it as state, as they treat weights, but it is not a weight: it is
    neither counted nor saved. Its layer returns it among its `variables` and removes it from those
    that Keras tracks.

    Args:
        compute: Callable without arguments that computes the value from those of `sources`.
        sources: The `LinkedVariable`s on which the value depends.
        shape: Shape of the value.
        dtype: Dtype of the value.
        name: Name of the variable.

    Example:

    >>> import keras
    >>> source = LinkedVariable(keras.initializers.Ones(), (2,), "float32", "source")
    >>> double = DerivedVariable(lambda: 2 * source, [source], (2,), "float32", "double")
    >>> source.assign([3.0, 4.0]) is None
    False
    >>> double.numpy().tolist()
    [6.0, 8.0]
    """

    def __init__(
        self,
        compute: Callable[[], Any],
        sources: Sequence[LinkedVariable],
        shape: Sequence[int],
        dtype: str,
        name: str,
    ) -> None:
        self.compute = compute
        self.sources = sources
        super().__init__(lambda shape, dtype: compute(), shape, dtype, name)
        for source in sources:
            source._derived.append(weakref.ref(self, source._derived.remove))
