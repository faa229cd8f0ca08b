"""Sums of hidden states from which the cost of every word in every cell follows."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn.distribution import make_replica_variable
from keras_lightrnn.run_state import RunState


class HalfStepStatistics(RunState):
    """Adds up, for each word, the hidden half-steps that predicted it.

    An observer of `TwoComponentSoftmax`. With `H_w` the sum of the column half-steps before the
    occurrences of word `w`, `G_w` that of the row half-steps, and `n_w` their number, the cost
    of `w` in row `i` is `-(H_w · row_kernel_i + n_w row_bias_i)`, up to a constant of the word,
    and likewise in each column. Sums add up over batches, replicas and hosts, and a step costs
    one scatter-add of states that it has computed anyway.

    Not saved with the weights of a model.

    Args:
        vocabulary_size: Integer `V`.
        units: Integer `H`.

    Call arguments:
        column_half_steps: `(B, T, H)`.
        row_half_steps: `(B, T, H)`.
        targets: Word ids `(B, T)`.

    Example:

    >>> import numpy as np
    >>> statistics = HalfStepStatistics(vocabulary_size=3, units=1)
    >>> statistics(np.ones((1, 2, 1)), 5 * np.ones((1, 2, 1)), np.array([[2, 2]]))
    >>> column_sums, row_sums, counts = statistics.read()
    >>> column_sums.ravel().tolist(), row_sums.ravel().tolist(), counts.tolist()
    ([0.0, 0.0, 2.0], [0.0, 0.0, 10.0], [0.0, 0.0, 2.0])
    """

    def __init__(self, vocabulary_size: int, units: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.column_sums, self.row_sums, self.counts = (
            make_replica_variable(shape, name)
            for name, shape in (
                ("column_sums", (vocabulary_size, units)),
                ("row_sums", (vocabulary_size, units)),
                ("counts", (vocabulary_size,)),
            )
        )
        self.replica_variables = {
            "column_sums": self.column_sums,
            "row_sums": self.row_sums,
            "counts": self.counts,
        }
        self.built = True

    def call(self, column_half_steps: Any, row_half_steps: Any, targets: Any) -> None:
        words = ops.reshape(targets, (-1,))
        units = self.column_sums.shape[-1]
        for variable, values in (
            (self.column_sums, ops.reshape(column_half_steps, (-1, units))),
            (self.row_sums, ops.reshape(row_half_steps, (-1, units))),
            (self.counts, ops.ones_like(words, "float32")),
        ):
            _scatter_add(variable, words, ops.stop_gradient(ops.cast(values, "float32")))

    def read(self) -> tuple[Any, Any, Any]:
        """Return `(V, H)` column sums, `(V, H)` row sums and `(V,)` counts, as NumPy arrays."""
        return tuple(
            ops.convert_to_numpy(variable)
            for variable in (self.column_sums, self.row_sums, self.counts)
        )


def _scatter_add(variable: Any, indices: Any, values: Any) -> None:
    """Add to some rows of a variable in place: `keras.ops` would touch all `V` of them."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        resource = variable.value
        if hasattr(resource, "_get_on_device_or_primary"):
            # Summed on read, a variable of a strategy offers no scatter; its part on this
            # replica does.
            resource = resource._get_on_device_or_primary()
        tf.raw_ops.ResourceScatterAdd(resource=resource.handle, indices=indices, updates=values)
    elif backend == "jax":
        variable.assign(variable.value.at[indices].add(values))
    elif backend == "torch":
        variable.assign(variable.value.index_add(0, indices.long(), values))
    else:
        raise NotImplementedError(f"No scatter-add for the Keras backend {backend!r}.")
