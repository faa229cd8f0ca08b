"""Checks of the input of `fit`, `evaluate` and `predict`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn.ops.word_ids import check_word_ids

# By name, because they are classes of TensorFlow, which may be absent.
_NOT_DENSE = ("RaggedTensor", "SparseTensor", "RaggedTensorSpec", "SparseTensorSpec")
_CUT = (
    "Cut text into windows with `token_windows`, which pads short windows and gives padding the "
    "sample weight 0."
)


def is_array(x: Any) -> bool:
    """Return whether `x` is an array, or converts to one, and not a source of batches."""
    return isinstance(x, (list, tuple)) or hasattr(x, "__array__")


def check_windows(name: str, windows: Any, vocabulary_size: int) -> np.ndarray:
    """Return windows of word ids as an array `(N, T + 1)`, or raise.

    Raises:
        TypeError: if they are not numbers.
        ValueError: if they have another shape, are empty or too short, or hold numbers that are not
            whole or ids outside `[0, V)`.

    Example:

    >>> check_windows("x", [[3, 1, 4], [1, 5, 9]], vocabulary_size=10).shape
    (2, 3)
    """
    try:
        windows = _to_numpy(windows)
    except ValueError as error:  # NumPy's, for lists of unequal lengths
        raise ValueError(
            f"The windows of `{name}` must have one length. Received: {name} with {len(windows)} "
            f"windows of unequal lengths. {_CUT}"
        ) from error
    check_shape(f"`{name}`", windows.shape, f"{name}.shape={windows.shape}")
    if not len(windows):
        raise ValueError(f"`{name}` must hold at least one window. Received: none. {_CUT}")
    dtype = windows.dtype
    if dtype.kind not in "iuf":
        raise TypeError(
            f"`{name}` must hold word ids, whole numbers. Received: {name}.dtype={dtype}. Encode "
            "text with `Vocabulary.encode`."
        )
    if dtype.kind == "f" and not np.array_equal(windows, np.trunc(windows)):
        raise ValueError(
            f"`{name}` must hold word ids, whole numbers. Received: {name}.dtype={dtype}, and "
            "numbers that are not. Encode text with `Vocabulary.encode`."
        )
    check_word_ids(windows, vocabulary_size)
    return windows


def _to_numpy(x: Any) -> np.ndarray:
    return ops.convert_to_numpy(x) if ops.is_tensor(x) else np.asarray(x)


def check_shape(what: str, shape: Any, received: str) -> None:
    """Raise `ValueError` unless a shape can be `(B, T + 1)` with `T >= 1`."""
    rank = shape.rank if hasattr(shape, "rank") else len(shape)
    if rank != 2 or (isinstance(shape[1], int) and shape[1] < 2):
        raise ValueError(
            f"{what} must hold windows of word ids (N, T + 1), of at least two words: a word is "
            f"predicted from those before it. Received: {received}. {_CUT}"
        )


def complete_arrays(
    name: str, vocabulary_size: int, x: Any, y: Any = None, sample_weight: Any = None
) -> tuple[np.ndarray, Any, Any]:
    """Return checked windows, their targets if given or needed by weights, and the weights."""
    windows = check_windows(name, x, vocabulary_size)
    expected = (len(windows), windows.shape[1] - 1)
    if y is not None and tuple(np.shape(y)) != expected:
        raise ValueError(
            f"The targets of windows `{name}` of shape {windows.shape} are their words from "
            f"the second on, {expected}. Received: targets of shape {tuple(np.shape(y))}. "
            "Leave the targets out, and keep the last word of each window."
        )
    if y is not None and not np.array_equal(y, windows[:, 1:]):
        raise ValueError(
            f"The targets of windows `{name}` are their words from the second on. Received: other "
            f"targets, in {np.count_nonzero(np.not_equal(y, windows[:, 1:]))} of {np.size(y)} "
            "places. Leave the targets out; give words that must not count the sample weight 0."
        )
    if y is not None or sample_weight is not None:
        # Keras drops weights where there are no targets, and takes a list for several targets.
        y = windows[:, 1:]
    if sample_weight is not None:
        sample_weight = _spread_weights(name, windows, sample_weight)
    return windows, y, sample_weight


def _spread_weights(name: str, windows: np.ndarray, weights: Any) -> np.ndarray:
    """Return the sample weights of windows as one for each target, `(N, T)`.

    A compiled step accepts weights of one rank only.
    """
    weights = _to_numpy(weights)
    expected = (len(windows), windows.shape[1] - 1)
    if weights.shape in (expected[:1], (*expected, 1)):
        weights = weights.reshape(len(windows), -1)
    if weights.shape not in (expected, (len(windows), 1)):
        raise ValueError(
            f"The sample weights of windows `{name}` of shape {windows.shape} must be one for each "
            f"target, {expected}, or one for each window, {expected[:1]}. Received: sample weights "
            f"of shape {weights.shape}. The targets are the words from the second on."
        )
    return np.broadcast_to(weights, expected)


def check_source(name: str, source: Any) -> tuple[int | None, ...] | None:
    """Check a source of batches, and return the shape of its windows if it declares one.

    Args:
        name: String, the name of the source in messages.
        source: A `tf.data.Dataset`, or another source of batches that Keras accepts, which declares
            no shape.

    Raises:
        TypeError: if windows cannot come from it.
        ValueError: if its batches are not `(B, T + 1)`.
    """
    kind = type(source).__name__
    if source is None or isinstance(source, (dict, str)) or kind in _NOT_DENSE:
        raise TypeError(
            f"`{name}` must be an array of windows of word ids (N, T + 1), or a source of batches "
            f"of them, such as a `tf.data.Dataset`. Received: {name} of type {kind}. {_CUT}"
        )
    if not hasattr(source, "element_spec"):
        return None
    element = source.element_spec
    spec = element[0] if isinstance(element, tuple) else element
    is_dense = hasattr(spec, "shape") and type(spec).__name__ not in _NOT_DENSE
    if not is_dense or not (spec.dtype.is_integer or spec.dtype.is_floating):
        raise TypeError(
            f"The elements of the dataset `{name}` must be `(windows,)`, `(windows, targets)` or "
            "`(windows, targets, sample_weight)`, with windows a dense tensor (B, T + 1) of word "
            f"ids. Received: elements {element}. Encode text with `Vocabulary.encode`, and use "
            "`Dataset.map` to give elements that form."
        )
    check_shape(
        f"The batches of the dataset `{name}`",
        spec.shape,
        f"elements {element}. Make batches with `.batch(batch_size)`, or declare their shape with "
        "`tf.ensure_shape`",
    )
    return tuple(spec.shape)


def read_first_batch(name: str, source: Any) -> tuple[tuple[int | None, ...], Any]:
    """Return the shape of the first batch of windows, and a source that still has that batch.

    Args:
        name: String, the name of the source in messages.
        source: A generator, `keras.utils.PyDataset`, PyTorch `DataLoader` or another iterable.

    Raises:
        ValueError: if it has no batches, or its windows are not `(B, T + 1)`.

    Example:

    >>> shape, batches = read_first_batch("x", (np.zeros((2, 5)) for _ in range(3)))
    >>> shape, len(list(batches))
    ((2, 5), 3)
    """
    try:
        if isinstance(source, keras.utils.PyDataset):
            batch = source[0]
        elif hasattr(source, "__next__"):
            batch = next(source)
            source = _prepend(batch, source)
        else:
            batch = next(iter(source))
    except (StopIteration, IndexError) as error:
        raise ValueError(
            f"`{name}` must hold at least one batch of windows. Received: {name} of type "
            f"{type(source).__name__} without one. {_CUT}"
        ) from error
    batch = tuple(batch) if isinstance(batch, list) else batch
    windows, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    shape = tuple(np.shape(windows))
    check_shape(f"The batches of `{name}`", shape, f"a batch of shape {shape}")
    return shape, source


def _prepend(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    # A generator, because Keras takes no other iterators.
    yield first
    yield from rest
