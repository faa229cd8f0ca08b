"""Row and column vectors of tables, fitted to the features of words by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse

from keras_lightrnn._internal.threads import map_slices
from keras_lightrnn.table.allocation import Allocation

_FIT_SWEEPS = 5
_FIT_TOLERANCE = 1e-6
_LARGEST_FEATURE = 1e15
# Vectors shorter than this share of the longest one keep their length.
_LEAST_LENGTH = 1e-3
# Sweeps over several tables end when one lowers the error by no more than this share of it.
_BACKFIT_TOLERANCE = 1e-4
_MOST_BACKFIT_SWEEPS = 50


def check_features(features: Any) -> np.ndarray:
    """Return features of words as a float32 matrix `(V, F)`, or raise `ValueError`."""
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not features.size or not np.isfinite(features).all():
        raise ValueError(
            "`features` must be a matrix of finite numbers, one row for each word. Received: "
            f"features.shape={features.shape}, {np.count_nonzero(~np.isfinite(features))} of them "
            "not finite."
        )
    largest = float(np.abs(features).max())
    if largest > _LARGEST_FEATURE:
        raise ValueError(
            f"`features` must lie within {_LARGEST_FEATURE:g}, for their squares to be added up in "
            f"float32. Received: one as large as {largest:g}. Scale them down."
        )
    return features


def compute_unexplained_share(features: Any, allocations: Any) -> float:
    """Return the share of the energy of features that row and column vectors cannot explain.

    The words of each table share a vector a row and a vector a column. The features of a word are
    approximated by the sum of its vectors in all tables,

        approximation_w = sum over t of (row_vector_t[row_t(w)] + column_vector_t[column_t(w)])
        share = sum over words w of |features_w - approximation_w|**2 / |features|**2

    The vectors minimise the share. Backfitting finds them: it fits the vectors of one table after
    the other to the rest of the features. 0 means that the tables explain all features, 1 that they
    explain nothing. Tables that complement each other leave a smaller share than similar tables.

    Args:
        features: `(V, F)` floats. Words with features of zero do not count.
        allocations: An `Allocation` of these words or a sequence of several.

    Returns:
        Float in [0, 1]; 0 if all features are zero.

    Raises:
        ValueError: if `features` is not a matrix of finite numbers, or there is no allocation, or
            one of another number of words.

    Example:

    >>> features = np.random.default_rng(0).standard_normal((100, 8))
    >>> tables = Allocation.from_features(features, num_tables=2)
    >>> one, two = (compute_unexplained_share(features, tables[:n]) for n in (1, 2))
    >>> 0.0 < two < 0.7 * one < 0.7
    True
    """
    features = check_features(features)
    if isinstance(allocations, Allocation):
        allocations = [allocations]
    allocations = list(allocations)
    sizes = [allocation.vocabulary_size for allocation in allocations]
    if not sizes or any(size != len(features) for size in sizes):
        raise ValueError(
            f"`allocations` must be of the {len(features)} words that `features` describes. "
            f"Received: {len(sizes)} allocations, of {sizes} words."
        )
    known = features.any(axis=1)
    if not known.any():
        return 0.0
    tables = [select_words(allocation, known) for allocation in allocations]
    rest, _ = backfit(features[known], tables)
    return compute_share_left(rest, features)


def backfit(
    features: np.ndarray, allocations: Sequence[Allocation]
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Fit the vectors of all tables together.

    Returns:
        The features less the vectors of their words, `(V, F)` float32; and of each table the row
        vectors `(R, F)` and the column vectors `(C, F)`.
    """
    rest = features.copy()
    fitted: list[tuple[np.ndarray, np.ndarray]] = []
    error = np.inf
    for _ in range(_MOST_BACKFIT_SWEEPS):
        last_error = error
        for number, allocation in enumerate(allocations):
            if number < len(fitted):
                rest += _add_up(*fitted[number], allocation)
            row_vectors, column_vectors, error = fit_vectors(rest, allocation)
            rest -= _add_up(row_vectors, column_vectors, allocation)
            fitted[number : number + 1] = [(row_vectors, column_vectors)]
        if len(allocations) == 1 or last_error - error <= _BACKFIT_TOLERANCE * error:
            break
    return rest, fitted


def _add_up(
    row_vectors: np.ndarray, column_vectors: np.ndarray, allocation: Allocation
) -> np.ndarray:
    return row_vectors[allocation.rows] + column_vectors[allocation.columns]


def compute_cluster_error(features: np.ndarray, allocation: Allocation) -> float:
    """Return the error that `cluster_features` minimises, with fitted vectors.

    The vectors are exact for a full table, and nearly so for a table with empty cells. Words whose
    features are all zero do not count.
    """
    has_features = np.asarray(features.any(axis=1))
    if not has_features.all() and has_features.any():  # an `Allocation` has words
        features, allocation = features[has_features], select_words(allocation, has_features)
    return fit_vectors(features, allocation)[2]


def select_words(allocation: Allocation, is_selected: np.ndarray) -> Allocation:
    """Return the allocation of some words, numbered as they follow each other."""
    return Allocation(allocation.cells[is_selected], allocation.num_rows, allocation.num_columns)


def scale_features(features: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Give each word's features the length `log(1 + n_w)`, keeping their direction."""
    lengths = np.linalg.norm(features, axis=1)
    # A vector of almost no length is rounding and stays short.
    floor = _LEAST_LENGTH * float(lengths.max()) or 1.0
    # Words that never occur have nothing but rounding; log1p(0) makes it zero.
    scales = np.log1p(counts) / np.maximum(lengths, floor)
    return features * scales[:, None].astype(np.float32)


def compute_energy(features: np.ndarray) -> float:
    """Return the sum of squares of features."""
    return float(np.einsum("vf,vf->v", features, features).sum(dtype=np.float64))


def compute_share_left(rest: np.ndarray, features: np.ndarray) -> float:
    """Return the share of the energy of features that is left, in [0, 1]; 0 of no energy.

    Args:
        rest: `(V, F)` float32, what is left of the features.
        features: `(V, F)` float32.
    """
    energy = compute_energy(features)
    return min(1.0, compute_energy(rest) / energy) if energy else 0.0


def fit_vectors(
    features: np.ndarray, allocation: Allocation, energy: float | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the best row and column vectors of an allocation, and the squared error.

    The vectors depend on the sums of features over rows and over columns only.

    Args:
        features: `(V, F)` float32.
        allocation: The `Allocation`.
        energy: Float, the result of `compute_energy`, if it is known.
    """
    is_filled = np.zeros(allocation.shape)
    is_filled[allocation.rows, allocation.columns] = 1.0
    sides = (allocation.rows, allocation.num_rows), (allocation.columns, allocation.num_columns)
    row_sums, column_sums = map_slices(
        lambda side: sum_by_group(features, *sides[side.start]), len(sides), 1
    )
    row_sizes = is_filled.sum(axis=1)[:, None]
    column_sizes = is_filled.sum(axis=0)[:, None]
    row_vectors = row_sums / np.maximum(row_sizes, 1.0)
    column_vectors = np.zeros_like(column_sums)
    # One sweep is exact for a full table. Empty cells couple rows and columns.
    for _ in range(1 if allocation.vocabulary_size == allocation.num_cells else _FIT_SWEEPS):
        before = column_vectors
        column_vectors = (column_sums - is_filled.T @ row_vectors) / np.maximum(column_sizes, 1.0)
        # A constant may move between rows and columns. Columns have mean zero.
        column_vectors -= column_vectors.mean(axis=0)
        row_vectors = (row_sums - is_filled @ column_vectors) / np.maximum(row_sizes, 1.0)
        change = np.square(column_vectors - before).sum()
        if change <= _FIT_TOLERANCE * np.square(column_vectors).sum():
            break
    error = (
        (compute_energy(features) if energy is None else energy)
        - 2 * (np.vdot(row_sums, row_vectors) + np.vdot(column_sums, column_vectors))
        + np.vdot(row_sizes * row_vectors, row_vectors)
        + np.vdot(column_sizes * column_vectors, column_vectors)
        + 2 * np.vdot(row_vectors, is_filled @ column_vectors)
    )
    # Rounding may make the error of a perfect fit negative.
    return row_vectors.astype(np.float32), column_vectors.astype(np.float32), float(max(error, 0.0))


def sum_by_group(values: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the sum of each group's rows `(num_groups, F)`."""
    members = scipy.sparse.csr_matrix(
        (np.ones(len(groups), np.float32), groups, np.arange(len(groups) + 1)),
        shape=(len(groups), num_groups),
    )
    return (members.T @ values).astype(np.float64)
