"""Two-way additive clustering: like words share rows and columns, by vectors known of them."""

from __future__ import annotations

import time
from typing import Any

import numba
import numpy as np
import scipy.sparse

from keras_lightrnn import assignment
from keras_lightrnn._internal.checks import check_size
from keras_lightrnn.table.allocation import Allocation, compute_table_shape

# Vectors shorter than this share of the longest are not brought to the length of the others.
_LEAST_LENGTH = 1e-3
# A round must lower the error by more than this share of it to be followed by another, unless
# it may take half a minute.
_TOLERANCE = 1e-4
_TOLERANCE_OF_SWEEPS = 0.02
# Passes over a group end when no more than this share of it was swapped.
_LEAST_SWAPS = 0.02
# A gain of no more than this share of the costs may be rounding.
_ROUNDING = 1e-6
_FIT_SWEEPS = 5
_FIT_TOLERANCE = 1e-6
_LARGEST_FEATURE = 1e15
_DIRECTION_STEPS = 20
_TINY = np.finfo(np.float32).tiny
# In larger vocabularies than the first rare words are so many and so alike that an auction takes
# minutes; a sweep of exact assignments, whose time grows with the square of the words, does so in
# larger ones than the second.
AUCTION_SIZE = 20_000
_SWEEP_SIZE = 300_000


def cluster_features(
    features: Any,
    num_rows: int | None = None,
    num_columns: int | None = None,
    *,
    num_rounds: int = 10,
    tolerance: float = _TOLERANCE,
    solver: Any = None,
    initial: Allocation | None = None,
    verbose: int = 0,
) -> Allocation:
    """Allocate words so that the sum of a row and a column vector is near their features.

    Minimises over the allocation and the vectors

        sum over words w of |features_w - row_vector[row(w)] - column_vector[column(w)]|**2

    by turns: the best vectors of an allocation are least squares; the best allocation for
    the vectors is an assignment problem, because the product of row and column vector
    adds up to the same sum however a full table is filled. (In a table with empty cells it
    is neglected, and the best allocation met is kept.) Words whose features are all zero
    fill the cells that the others leave.

    Args:
        features: `(V, F)` floats.
        num_rows: Integer `R`, or `None`: that of `initial`, or near the square root.
        num_columns: Integer `C`, or `None`, likewise.
        num_rounds: Integer, the most rounds.
        tolerance: Float, rounds end with one that lowers the error by no more than this share of
            it.
        solver: The assignment solver, whatever `keras_lightrnn.assignment.get` takes. `None`
            is the auction with a tolerance of 0.1 % of the gain. Above 20,000 words greedy
            choices, unless there is `initial`, are followed by rounds of `exchange_words` and, up
            to 300,000 words, of exact assignments of rows and columns; there a round must gain
            2 % to be followed by another.
        initial: The `Allocation` to start from; `None` to halve the words again and again.
        verbose: Integer, 0 or 1. With 1 each round is reported on standard output.

    Returns:
        An `Allocation`.

    Raises:
        ValueError: if `features` is no matrix of numbers that float32 can square and add up, the
            table is too small, or `initial` is of other words or another table.
        KeyboardInterrupt: if it is interrupted, also where a solver hands in its best so far.

    Example:

    >>> features = [[1.0, 2.0], [9.0, 1.0], [1.0, 1.0], [9.0, 2.0]]
    >>> allocation = cluster_features(features, solver="exact")
    >>> (allocation.rows == allocation.rows[0]).tolist()
    [True, False, True, False]
    >>> (allocation.columns == allocation.columns[0]).tolist()
    [True, False, False, True]
    """
    features = _check_features(features)
    check_size("num_rounds", num_rounds)
    if initial is not None and num_rows is None and num_columns is None:
        num_rows, num_columns = initial.shape
    shape = compute_table_shape(len(features), num_rows, num_columns)
    if initial is not None and (initial.vocabulary_size, initial.shape) != (len(features), shape):
        raise ValueError(
            "`initial` must be an allocation of the words into the table. Received: "
            f"initial={initial!r} for {len(features)} words and a table of shape {shape}."
        )
    has_features = features.any(axis=1)
    if not has_features.any():
        has_features[:] = True
    known = features[has_features]
    start = None if initial is None else _select_words(initial, has_features)
    # Equal words by the thousand would draw vectors to themselves for nothing.
    if solver is None and len(known) > AUCTION_SIZE:
        chosen = _cluster_many(known, shape, num_rounds, tolerance, start, verbose)
    else:
        if solver is None:  # a loose tolerance will do: the vectors move after every round anyway
            solver = assignment.AuctionSolver(gap_tolerance=1e-3)
        start = _compute_start(known, *shape) if start is None else start
        chosen = _alternate(known, start, solver, num_rounds, tolerance, verbose)
    if len(known) == len(features):
        return chosen
    cells = np.empty(len(features), np.int64)
    cells[has_features] = chosen.cells
    others = np.count_nonzero(~has_features)
    cells[~has_features] = np.flatnonzero(chosen.words.ravel() < 0)[:others]
    return Allocation(cells, *shape)


def _check_features(features: Any) -> np.ndarray:
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


def _alternate(
    features: np.ndarray,
    allocation: Allocation,
    solver: Any,
    num_rounds: int,
    tolerance: float,
    verbose: int,
) -> Allocation:
    """Fit vectors and assign words by turns; return the best allocation met."""
    solver = assignment.get(solver)
    progress = _Progress(verbose)
    row_vectors, column_vectors, error = _fit_vectors(features, allocation)
    best, best_error = allocation, error
    # (V, F + 1): the last factor carries the squared length of the vector.
    factors = np.concatenate([2 * features, -np.ones((len(features), 1), np.float32)], axis=1)
    for _ in range(num_rounds):
        progress.report("clustering", error)
        problem = assignment.AssignmentProblem.from_factors(
            factors, _with_square(row_vectors), factors, _with_square(column_vectors)
        )
        solution = solver.solve(problem, initial=allocation)
        if solution.status == "interrupted":
            raise KeyboardInterrupt
        allocation = solution.allocation
        row_vectors, column_vectors, error = _fit_vectors(features, allocation)
        gain = best_error - error
        if gain > 0:
            best, best_error = allocation, error
        if gain <= tolerance * best_error:
            break
    progress.report("clustered", best_error)
    return best


def _cluster_many(
    features: np.ndarray,
    shape: tuple[int, int],
    num_rounds: int,
    tolerance: float,
    start: Allocation | None,
    verbose: int,
) -> Allocation:
    """Cluster as many words as an auction would take too long for; all have features."""
    if start is None:
        start = _compute_start(features, *shape)
        start = _alternate(features, start, "greedy", 1, tolerance, verbose)
    tolerance = max(tolerance, _TOLERANCE_OF_SWEEPS)
    found = exchange_words(
        features,
        start,
        np.ones(len(features), bool),
        num_rounds=num_rounds,
        tolerance=tolerance,
        verbose=verbose,
    )
    if len(features) > _SWEEP_SIZE:
        return found
    sweep = assignment.AlternatingSolver(max_sweeps=1)
    return _alternate(features, found, sweep, num_rounds, tolerance, verbose)


class _Progress:
    """Says on standard output, if it may, how far clustering is."""

    def __init__(self, verbose: int) -> None:
        self.verbose = verbose
        self.start = time.perf_counter()

    def report(self, stage: str, error: float) -> None:
        if self.verbose:
            print(f"{stage}: error {error:.6g}, {time.perf_counter() - self.start:.1f} s")


def exchange_words(
    features: np.ndarray,
    allocation: Allocation,
    is_movable: np.ndarray,
    *,
    num_rounds: int = 10,
    tolerance: float = 5e-3,
    verbose: int = 0,
) -> Allocation:
    """Let some words exchange their cells, all others staying, to lower the error of clustering.

    By turns the words of each row exchange their columns and those of each column their rows, two
    words at a time for as long as two gain by it, and vectors are fitted anew. Exact assignments
    of rows and columns would gain a fifth more and take thirty times as long.

    Args:
        features: `(V, F)` float32. Words whose features are all zero stay.
        allocation: The `Allocation` to start from.
        is_movable: `(V,)` booleans, which words may move.
        num_rounds: Integer, the most rounds.
        tolerance: Float, rounds end with one that lowers the error by no more than this share of
            it.
        verbose: Integer, 0 or 1. With 1 each round is reported on standard output.

    Returns:
        An `Allocation`.

    Example:

    >>> features = np.array([[1.0], [8.0], [9.0], [2.0], [5.0]], np.float32)
    >>> allocation = Allocation([0, 1, 2, 3, 5], num_rows=3, num_columns=2)
    >>> found = exchange_words(features, allocation, np.array([True, True, True, True, False]))
    >>> found.rows.tolist(), int(found.cells[4])
    ([0, 1, 1, 0, 2], 5)
    """
    movable = np.flatnonzero(is_movable & features.any(axis=1))
    rows, columns = allocation.rows.astype(np.int64), allocation.columns.astype(np.int64)

    def fit() -> tuple[Allocation, tuple[np.ndarray, np.ndarray, float]]:
        here = Allocation(rows * allocation.num_columns + columns, *allocation.shape)
        return here, _fit_known(features, here)

    best, (_, column_vectors, best_error) = fit()
    progress = _Progress(verbose)
    for _ in range(num_rounds):
        progress.report("exchanging", best_error)
        _exchange_places(features, movable, rows, columns, column_vectors)
        _, (row_vectors, _, _) = fit()
        _exchange_places(features, movable, columns, rows, row_vectors)
        here, (_, column_vectors, error) = fit()
        gain = best_error - error
        if gain > 0:
            best, best_error = here, error
        if gain <= tolerance * best_error:
            break
    progress.report("exchanged", best_error)
    return best


def _exchange_places(
    features: np.ndarray,
    words: np.ndarray,
    groups: np.ndarray,
    places: np.ndarray,
    vectors: np.ndarray,
) -> None:
    """Let the words of each group (say, a row) exchange their `places` (columns), in place."""
    squares = np.square(vectors).sum(axis=1)
    words = words[np.argsort(groups[words], kind="stable")]
    for some in np.split(words, np.flatnonzero(np.diff(groups[words])) + 1):
        offered = places[some]
        costs = squares[offered] - 2 * features[some] @ vectors[offered].T
        places[some] = offered[_swap_in_pairs(costs)]


@numba.njit(cache=True)
def _swap_in_pairs(costs: np.ndarray) -> np.ndarray:
    """Return where to put each, starting from the diagonal, so that hardly two gain by a swap."""
    size = len(costs)
    chosen = np.arange(size)
    num_swaps = size
    while num_swaps > size * _LEAST_SWAPS:
        num_swaps = 0
        for i in range(size):
            for j in range(i + 1, size):
                here, there = chosen[i], chosen[j]
                before, after = costs[i, here] + costs[j, there], costs[i, there] + costs[j, here]
                if before - after > _ROUNDING * (abs(costs[i, here]) + abs(costs[j, there])):
                    chosen[i], chosen[j] = there, here
                    num_swaps += 1
    return chosen


def compute_cluster_error(features: np.ndarray, allocation: Allocation) -> float:
    """Return what `cluster_features` minimises, for an allocation and vectors fitted to it.

    They are the best ones of a full table; with empty cells, near them.
    """
    return _fit_known(features, allocation)[2]


def _fit_known(
    features: np.ndarray, allocation: Allocation
) -> tuple[np.ndarray, np.ndarray, float]:
    """Do what `_fit_vectors` does, without the words of which nothing is known."""
    has_features = np.asarray(features.any(axis=1))
    if not has_features.any():
        has_features[:] = True  # an `Allocation` has words
    return _fit_vectors(features[has_features], _select_words(allocation, has_features))


def _select_words(allocation: Allocation, is_selected: np.ndarray) -> Allocation:
    return Allocation(allocation.cells[is_selected], allocation.num_rows, allocation.num_columns)


def scale_features(features: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Give each word's features the length `log(1 + n_w)`, keeping their direction."""
    lengths = np.linalg.norm(features, axis=1)
    # A vector of almost no length is rounding: it stays short. With none at all, so do all.
    floor = _LEAST_LENGTH * float(lengths.max()) or 1.0
    # Nothing but rounding is left of words that never occur; log1p(0) makes it zero.
    scales = np.log1p(counts) / np.maximum(lengths, floor)
    return features * scales[:, None].astype(np.float32)


def _compute_start(features: np.ndarray, num_rows: int, num_columns: int) -> Allocation:
    """Halve the words again and again along their widest direction, rows first."""
    rows = _bisect(features, num_rows)
    sizes = np.maximum(np.bincount(rows, minlength=num_rows), 1)[:, None]
    means = _sum_by_group(features, rows, num_rows) / sizes
    columns = _bisect(features - means.astype(np.float32)[rows], num_columns)
    # Groups of the columns meet a row several times or never; their order in it does not.
    order = np.lexsort((columns, rows))
    begins = np.searchsorted(rows[order], np.arange(num_rows))
    cells = np.empty(len(features), np.int64)
    cells[order] = rows[order] * num_columns + np.arange(len(features)) - begins[rows[order]]
    return Allocation(cells, num_rows, num_columns)


def _bisect(features: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the group of each word; groups differ in size by one at most."""
    groups = np.empty(len(features), np.int64)
    ends = np.arange(num_groups + 1) * len(features) // num_groups
    pending = [(np.arange(len(features)), 0, num_groups)]
    while pending:
        words, begin, end = pending.pop()
        if end - begin == 1 or words.size == 0:
            groups[words] = begin
            continue
        here = features[words]
        here = here - here.mean(axis=0)
        spread = here.T @ here  # (F, F)
        # Power iteration from the widest axis. A near-widest direction will do, and unlike an
        # eigenvector of `eigh` it has a definite sign.
        direction = spread[np.argmax(np.diagonal(spread))]
        for _ in range(_DIRECTION_STEPS):
            direction = spread @ (direction / max(np.linalg.norm(direction), _TINY))
        words = words[np.argsort(here @ direction, kind="stable")]
        middle = (begin + end) // 2
        size = ends[middle] - ends[begin]
        pending += [(words[:size], begin, middle), (words[size:], middle, end)]
    return groups


def _fit_vectors(
    features: np.ndarray, allocation: Allocation
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the best row and column vectors of an allocation, and the error they leave.

    Sums over rows and columns say all there is to know; words are read for these alone.
    """
    is_filled = np.zeros(allocation.shape)
    is_filled[allocation.rows, allocation.columns] = 1.0
    row_sums = _sum_by_group(features, allocation.rows, allocation.num_rows)
    column_sums = _sum_by_group(features, allocation.columns, allocation.num_columns)
    row_sizes = is_filled.sum(axis=1)[:, None]
    column_sizes = is_filled.sum(axis=0)[:, None]
    row_vectors = row_sums / np.maximum(row_sizes, 1.0)
    column_vectors = np.zeros_like(column_sums)
    # With every cell full one sweep is exact. Empty cells tie rows to columns: sweep on.
    for _ in range(1 if allocation.vocabulary_size == allocation.num_cells else _FIT_SWEEPS):
        before = column_vectors
        column_vectors = (column_sums - is_filled.T @ row_vectors) / np.maximum(column_sizes, 1.0)
        # A constant may move between the two; with mean zero their products matter least.
        column_vectors -= column_vectors.mean(axis=0)
        row_vectors = (row_sums - is_filled @ column_vectors) / np.maximum(row_sizes, 1.0)
        change = np.square(column_vectors - before).sum()
        if change <= _FIT_TOLERANCE * np.square(column_vectors).sum():
            break
    error = (
        np.einsum("vf,vf->v", features, features).sum(dtype=np.float64)
        - 2 * (np.vdot(row_sums, row_vectors) + np.vdot(column_sums, column_vectors))
        + np.vdot(row_sizes * row_vectors, row_vectors)
        + np.vdot(column_sizes * column_vectors, column_vectors)
        + 2 * np.vdot(row_vectors, is_filled @ column_vectors)
    )
    # A perfect fit may be off by rounding, to either side.
    return row_vectors.astype(np.float32), column_vectors.astype(np.float32), float(max(error, 0.0))


def _sum_by_group(values: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the sum of each group's rows `(num_groups, F)`."""
    members = scipy.sparse.csr_matrix(
        (np.ones(len(groups), np.float32), groups, np.arange(len(groups) + 1)),
        shape=(len(groups), num_groups),
    )
    return (members.T @ values).astype(np.float64)


def _with_square(vectors: np.ndarray) -> np.ndarray:
    """Append the squared length of each vector `(n, F + 1)`."""
    return np.concatenate([vectors, np.square(vectors).sum(axis=1, keepdims=True)], axis=1)
