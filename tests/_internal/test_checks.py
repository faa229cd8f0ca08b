from __future__ import annotations

import numpy as np
import pytest

from keras_lightrnn._internal.checks import check_counts, check_ids, check_size


@pytest.mark.parametrize("value", [1, 2**40, np.int8(3), np.uint64(7)])
def test_sizes_become_integers_of_python(value):
    size = check_size("units", value)
    assert type(size) is int
    assert size == value


@pytest.mark.parametrize("value", [0, -1, 2.0, "3", None, True, np.bool_(True), np.array([3])])
def test_what_is_no_size(value):
    with pytest.raises(ValueError, match=r"`units` must be a positive integer\. Received: units="):
        check_size("units", value)


def test_counts():
    assert check_counts([0, 3], 2).tolist() == [0, 3]
    counts = np.array([0.5, 2.0], np.float32)
    assert check_counts(counts, 2) is counts


@pytest.mark.parametrize(
    ("counts", "kind", "message"),
    [
        ([1], ValueError, r"each of 2 words.*counts.shape=\(1,\)"),
        ([[1, 2]], ValueError, r"counts.shape=\(1, 2\)"),
        ([1, -3], ValueError, r"counts\[1\]=-3 \(1 of 2 are wrong\)"),
        ([np.nan, np.inf], ValueError, r"counts\[0\]=nan \(2 of 2 are wrong\)"),
        (["a", "b"], TypeError, "real numbers.*dtype=<U1"),
        ([True, False], TypeError, "dtype=bool"),
        ([1j, 0], TypeError, "dtype=complex128"),
        (None, TypeError, r"counts=None.*np.bincount\(words, minlength=2\)"),
    ],
)
def test_what_are_no_counts(counts, kind, message):
    with pytest.raises(kind, match=message):
        check_counts(counts, 2)


def test_pieces_of_a_stream():
    assert check_ids([0, 4], 9, 5).tolist() == [0, 4]
    assert check_ids([], 9, 5).dtype == np.int32
    words = np.arange(5, dtype=np.uint8)
    assert check_ids(words, 0, 5) is words


@pytest.mark.parametrize(
    ("ids", "kind", "message"),
    [
        ([3, 5], ValueError, r"\[0, 5\).*id 5 at position 10 "),
        ([-1], ValueError, "id -1 at position 9 "),
        (3, ValueError, r"shape \(\) at position 9 "),
        ([[1]], ValueError, r"shape \(1, 1\) at position 9 "),
        ([1.0], TypeError, "dtype float64 at position 9 "),
        (["the"], TypeError, "dtype <U3 at position 9 "),
    ],
)
def test_what_is_no_piece_of_a_stream(ids, kind, message):
    with pytest.raises(kind, match=message):
        check_ids(ids, 9, 5)
