"""Data sets of batches whose order changes from epoch to epoch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


class Epochs:
    """The batches of successive epochs.

    Args:
        read_epoch: Function from the number of an epoch to the sequence of its batches. All
            epochs must have equally many.
        initial_epoch: Integer, the first epoch.

    Attributes:
        number: Integer, the next epoch.
        num_batches: Integer, batches per epoch.

    Example:

    >>> epochs = Epochs(lambda epoch: [10 * epoch, 10 * epoch + 1], initial_epoch=3)
    >>> epochs.number, epochs.read(epochs.number, 1)
    (3, 31)
    >>> epochs.finish(3)
    >>> epochs.number
    4
    """

    def __init__(self, read_epoch: Callable[[int], Sequence[Any]], initial_epoch: int) -> None:
        # Two, because an iterator may prefetch the next epoch while another reads this one.
        self._read_epoch = functools.lru_cache(maxsize=2)(read_epoch)
        self.number = initial_epoch
        self.num_batches = len(self._read_epoch(initial_epoch))

    def read(self, number: int, index: int) -> Any:
        """Return a batch of an epoch."""
        return self._read_epoch(int(number))[int(index)]

    def finish(self, number: int) -> None:
        """Make the epoch after `number` the next one."""
        self.number = int(number) + 1


def make_dataset(epochs: Epochs, batch_size: int, sequence_length: int | None) -> tf.data.Dataset:
    """Make a data set that reads the next epoch in each iteration.

    Args:
        epochs: `Epochs` of tuples `(window, targets, sample_weight)`.
        batch_size: Integer `B`.
        sequence_length: Integer `T`, or `None` if it differs between batches.

    Returns:
        A `tf.data.Dataset` of `(B, T + 1)` int32, `(B, T)` int32, `(B, T)` float32.
    """
    # Imported here because windows in NumPy do not need TensorFlow.
    import tensorflow as tf

    def begin() -> np.int64:
        return np.int64(epochs.number)

    def finish(number: np.int64) -> np.int64:
        epochs.finish(int(number))
        return number

    def load(number: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        window, targets, weight = tf.numpy_function(
            epochs.read, [number, index], (tf.int32, tf.int32, tf.float32)
        )
        window.set_shape((batch_size, None if sequence_length is None else sequence_length + 1))
        targets.set_shape((batch_size, sequence_length))
        weight.set_shape((batch_size, sequence_length))
        return number, index, window, targets, weight

    def load_epoch(_: tf.Tensor) -> tf.data.Dataset:
        number = tf.numpy_function(begin, [], tf.int64)
        return tf.data.Dataset.range(epochs.num_batches).map(lambda index: load(number, index))

    def deliver(number: tf.Tensor, index: tf.Tensor, *batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # An epoch ends when its last batch is delivered, not when it is prefetched: under a
        # strategy, Keras takes a first batch to build the model, and starts again. The end of the
        # data set is no sign, because Keras does not read past the last batch.
        is_last = tf.equal(index, epochs.num_batches - 1)
        tf.cond(is_last, lambda: tf.numpy_function(finish, [number], tf.int64), lambda: number)
        return batch

    dataset = tf.data.Dataset.range(1).flat_map(load_epoch)
    dataset = dataset.prefetch(tf.data.AUTOTUNE).map(deliver)
    return dataset.apply(tf.data.experimental.assert_cardinality(epochs.num_batches))
