"""Sums of the hidden states around each word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.distribution import make_replica_variable
from keras_lightrnn._internal.keras_internals import get_replica_resource
from keras_lightrnn._internal.run_state import RunState
from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.ops.word_weights import compute_word_weights

_SUMS = ("column_sums", "row_sums", "following_sums", "occurrences")
# A float32 sum of ones stops growing here, and sums of states become inaccurate.
_MOST_OCCURRENCES = 2.0**24


class HalfStepStatistics(RunState):
    """Sums, for each word, the hidden states around its occurrences.

    It observes a `TwoComponentSoftmax` and can keep these sums:

    - `column_sums`: the states that predicted the word's row (column half-steps);
    - `row_sums`: the states that predicted its column (row half-steps);
    - `following_sums`: the column half-steps after the word was read, which the last word of a
      window does not have;
    - `occurrences`: the number of occurrences of the word, without states.

    With several tables, a word counts by the share of the observed table in its prediction, except
    in `occurrences`.

    The sums add up over batches, replicas and hosts. Each adds one scatter-add of states to a step,
    which computes the states anyway. Accumulation stops after `2**24` occurrences of a word on a
    replica (the limit of float32 counts); its mean state stays valid.

    The sums are not saved with the weights of a model.

    Args:
        vocabulary_size: Integer `V`.
        units: Integer `H`.
        sums: Names of the sums to keep.

    Call arguments:
        column_half_steps: `(B, T, H)`.
        row_half_steps: `(B, T, H)`.
        targets: Word ids `(B, T)`.
        weights: `(B, T)`, the weight of each target, 0 for padding. `None` for 1.
        shares: `(B, T)`, the share of the observed table in each target. `None` for 1.

    Example:

    >>> import numpy as np
    >>> statistics = HalfStepStatistics(vocabulary_size=3, units=1)
    >>> statistics(np.ones((1, 2, 1)), 5 * np.ones((1, 2, 1)), np.array([[2, 2]]))
    >>> sums = statistics.read()
    >>> sums["column_sums"].ravel().tolist(), sums["row_sums"].ravel().tolist()
    ([0.0, 0.0, 2.0], [0.0, 0.0, 10.0])
    >>> sums["counts"].tolist()
    [0.0, 0.0, 2.0]
    """

    def __init__(
        self,
        vocabulary_size: int,
        units: int,
        sums: Iterable[str] = ("column_sums", "row_sums"),
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        sums = tuple(sums)
        unknown = sorted(set(sums) - set(_SUMS))
        if unknown:
            raise ValueError(
                f"`sums` must be among {list(_SUMS)}. Received: unknown sums {unknown}."
            )
        self.sums = tuple(name for name in _SUMS if name in sums)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(self.sums, (vocabulary_size, units))
        if "occurrences" in self.sums:
            shapes["occurrences"] = (vocabulary_size,)
        shapes["counts"] = (vocabulary_size,)
        if "following_sums" in self.sums:
            shapes["following_counts"] = (vocabulary_size,)
        self.replica_variables = {
            name: make_replica_variable(shape, name) for name, shape in shapes.items()
        }
        for name, variable in self.replica_variables.items():
            setattr(self, name, variable)  # Keras tracks attributes
        self.built = True

    @property
    def kind(self) -> int:
        """A number that encodes which sums are kept."""
        return sum(1 << index for index, name in enumerate(_SUMS) if name in self.sums)

    def call(
        self,
        column_half_steps: Tensor,
        row_half_steps: Tensor,
        targets: WordIds,
        weights: Tensor = None,
        shares: Tensor = None,
    ) -> None:
        weights = compute_word_weights(targets, weights)
        if "occurrences" in self.sums:
            self._count("occurrences", targets, weights)
        if shares is not None:
            weights = weights * ops.cast(shares, "float32")
        factors = self._count("counts", targets, weights)
        if "column_sums" in self.sums:
            self._add_states("column_sums", targets, column_half_steps, factors)
        if "row_sums" in self.sums:
            self._add_states("row_sums", targets, row_half_steps, factors)
        if "following_sums" in self.sums:
            words = targets[:, :-1]
            factors = self._count("following_counts", words, weights[:, :-1])
            self._add_states("following_sums", words, column_half_steps[:, 1:], factors)

    def _count(self, name: str, words: WordIds, weights: Tensor) -> Tensor:
        """Count words, and return their weights: 0 for words at the limit."""
        counts = _gather(self.replica_variables[name], words)
        factors = ops.where(counts < _MOST_OCCURRENCES, weights, 0.0)
        self._add(name, words, factors)
        return factors

    def _add_states(self, name: str, words: WordIds, half_steps: Tensor, factors: Tensor) -> None:
        half_steps = ops.stop_gradient(ops.cast(half_steps, "float32"))
        self._add(name, words, half_steps * ops.expand_dims(factors, -1))

    def _add(self, name: str, words: WordIds, values: Tensor) -> None:
        variable = self.replica_variables[name]
        values = ops.reshape(values, (-1, *variable.shape[1:]))
        _scatter_add(variable, ops.reshape(words, (-1,)), values)

    def read(self) -> dict[str, np.ndarray]:
        """Return the sums `(V, H)`, `counts` and, with `following_sums`, `following_counts` `(V,)`.

        `counts` are the occurrences of words, weighted by the shares of the observed table if there
        are several. `following_counts` leave out the last words of windows.
        """
        return {
            name: ops.convert_to_numpy(variable)
            for name, variable in self.replica_variables.items()
        }


def _gather(variable: keras.Variable, indices: Tensor) -> Tensor:
    """Return elements of a vector on this replica, without a copy of the vector."""
    if keras.backend.backend() != "tensorflow":
        return ops.take(variable, indices, axis=0)
    import tensorflow as tf

    return tf.gather(get_replica_resource(variable), indices)


def _scatter_add(variable: keras.Variable, indices: Tensor, values: Tensor) -> None:
    """Add to rows of a variable in place; `keras.ops` would copy all `V` rows."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        handle = get_replica_resource(variable).handle
        tf.raw_ops.ResourceScatterAdd(resource=handle, indices=indices, updates=values)
    elif backend == "jax":
        variable.assign(variable.value.at[indices].add(values))
    elif backend == "torch":
        variable.assign(variable.value.index_add(0, indices.long(), values))
    else:
        raise NotImplementedError(f"No scatter-add for the Keras backend {backend!r}.")
