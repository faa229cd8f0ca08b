"""Variables that follow from others."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras


class LinkedVariable(keras.Variable):
    """Variable that is not trained, and that others are derived from.

    Whatever assigns it, a layer, `set_weights` or a checkpoint, those are computed anew.

    Args:
        initializer: Callable `(shape, dtype) -> tensor`.
        shape: Shape of the value.
        dtype: Type of the value.
        name: Name of the variable.
    """

    def __init__(
        self, initializer: Callable[..., Any], shape: Sequence[int], dtype: str, name: str
    ) -> None:
        # Weak: a table outlives layers that were made on it.
        self._derived: list[weakref.ref[DerivedVariable]] = []
        # Only the first replica's value counts: replicas must never hold different tables.
        super().__init__(
            initializer,
            shape=shape,
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    def assign(self, value: Any) -> Any:
        value = super().assign(value)
        self._update_derived()
        return value

    def _restore_from_tensors(self, tensors: Any) -> Any:
        # `tf.train.Checkpoint` does not call `assign`.
        restored = super()._restore_from_tensors(tensors)
        self._update_derived()
        return restored

    def _update_derived(self) -> None:
        for derived in [reference() for reference in self._derived]:
            # On JAX `fit` holds the values elsewhere, and brings them back one by one.
            if derived is not None and all(s._value is not None for s in derived.sources):
                derived.assign(derived.compute())


class DerivedVariable(LinkedVariable):
    """Variable whose value is always `compute()`, so that no step need compute it.

    It is state of compiled functions as weights are, and no weight: it is neither counted nor
    saved. Its layer returns it among its `variables`, and takes it out of those that Keras
    tracks.

    Args:
        compute: Callable without arguments, from the values of `sources`.
        sources: The `LinkedVariable`s that the value depends on.
        shape: Shape of the value.
        dtype: Type of the value.
        name: Name of the variable.

    Example:

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
