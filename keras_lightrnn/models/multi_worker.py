"""Repairs of Keras's training on several replicas and in several processes."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.distribution import count_replicas, is_multi_worker, strategy_scope
from keras_lightrnn._internal.keras_internals import FirstBatchBuild, build_from_batch
from keras_lightrnn._internal.observed_training import ObservedTraining


class MultiWorkerTraining(ObservedTraining, FirstBatchBuild):
    """Mixin with which `fit` and `evaluate` work under `MultiWorkerMirroredStrategy`.

    Keras averages the results of a step over their first axis, which scalars do not have
    (keras-team/keras#20585). It also averages the first batch over replicas, as if inputs, targets
    and weights were one tensor and all replicas had equal shares. Without a strategy, and on other
    backends, the mixin adds no more than `ObservedTraining`, which it includes.

    Example: a functional model that several workers can train.

    >>> class MultiWorkerModel(MultiWorkerTraining, keras.Model):
    ...     pass
    >>> inputs = keras.Input((3,))
    >>> model = MultiWorkerModel(inputs, keras.layers.Dense(1)(inputs))
    """

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._reshape_logs(super().train_step(*args, **kwargs))

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._reshape_logs(super().test_step(*args, **kwargs))

    def _reshape_logs(self, logs: Any) -> Any:
        if not is_multi_worker(self):
            return logs
        return {name: ops.reshape(value, (1,)) for name, value in logs.items()}

    def build_from_iterator(self, iterator: Any) -> bool:
        if count_replicas(self) == 1:
            return False
        strategy = self.distribute_strategy  # type: ignore[attr-defined]
        batch = None
        for _, _, batches in iterator:
            batch = keras.tree.map_structure(
                lambda values: strategy.experimental_local_results(values)[0], next(batches)
            )
            break
        with strategy_scope(self):
            build_from_batch(self, batch)  # type: ignore[arg-type]
        return True
