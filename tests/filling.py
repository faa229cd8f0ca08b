"""Weights that tell each other apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_lightrnn import Allocation


def fill_sequentially(model: Any, table: Any = None, step: float = 1e-3) -> None:
    """Give every float weight different, consecutive numbers, and a table a seeded allocation.

    Row and column weights are often of one shape, so that swapped ones would go unseen with
    anything less.
    """
    start = 1
    for weight in model.weights:
        if "float" not in str(weight.dtype):
            continue
        size = int(np.prod(weight.shape))
        # Alternating signs keep activations away from saturation.
        values = np.arange(start, start + size) * np.where(np.arange(size) % 2, -step, step)
        weight.assign(values.reshape(weight.shape).astype("float32"))
        start += size
    if table is not None:
        table.assign(Allocation.random(table.vocabulary_size, *table.table_shape, seed=5))
