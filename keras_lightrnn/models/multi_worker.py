"""What Keras lacks to train on several replicas, and in several processes."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.distribution import count_replicas, is_multi_worker, strategy_scope


class MultiWorkerTraining:
    """Mixin with which `fit` and `evaluate` work under `MultiWorkerMirroredStrategy`.

    Keras averages what a step returns over its first axis, which scalars have not
    (keras-team/keras#20585), and averages a first batch over replicas, as if inputs, targets and
    weights were one tensor, and all had equal shares. Without a strategy, and on other backends,
    nothing is changed.

    Example: a functional model that several workers can train.

    >>> class MultiWorkerModel(MultiWorkerTraining, keras.Model):
    ...     pass
    >>> inputs = keras.Input((3,))
    >>> model = MultiWorkerModel(inputs, keras.layers.Dense(1)(inputs))
    """

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._reshape_logs(super().train_step(*args, **kwargs))  # type: ignore[misc]

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._reshape_logs(super().test_step(*args, **kwargs))  # type: ignore[misc]

    def _reshape_logs(self, logs: Any) -> Any:
        if not is_multi_worker(self):
            return logs
        return {name: ops.reshape(value, (1,)) for name, value in logs.items()}

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is None or count_replicas(self) == 1:
            super()._maybe_symbolic_build(iterator, data_batch)  # type: ignore[misc]
            return
        strategy = self.distribute_strategy  # type: ignore[attr-defined]
        for _, _, batches in iterator:
            data_batch = keras.tree.map_structure(
                lambda values: strategy.experimental_local_results(values)[0], next(batches)
            )
            break
        with strategy_scope(self):
            self._symbolic_build(data_batch=data_batch)  # type: ignore[attr-defined]
