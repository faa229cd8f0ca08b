"""Two-way additive clustering: like words share rows and columns, by vectors known of them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import scipy.sparse
from scipy.optimize import linear_sum_assignment

from keras_lightrnn import assignment
from keras_lightrnn.allocation import Allocation, compute_table_shape
from keras_lightrnn.checks import check_size

# Vectors shorter than this share of the longest are not brought to the length of the others.
_LEAST_LENGTH = 1e-3
# A round must lower the error by this share of it to be followed by another,
_LEAST_GAIN = 1e-4
# or by this one where it may take half a minute.
_LEAST_GAIN_OF_SWEEP = 0.02
_LEAST_GAIN_OF_EXCHANGE = 5e-3
_FIT_SWEEPS = 5
_DIRECTION_STEPS = 20
_TINY = np.finfo(np.float32).tiny
# The default solvers are for at most so many words. In larger vocabularies than the first rare
# words are so many and so alike that an auction takes minutes; a sweep, whose time grows with the
# square of the words, does so in larger ones than the second.
AUCTION_SIZE = 20_000
_SWEEP_SIZE = 300_000


def cluster_features(
    features: Any,
    num_rows: int | None = None,
    num_columns: int | None = None,
    *,
    num_rounds: int = 10,
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
        num_rows: Integer `R`, or `None`.
        num_columns: Integer `C`, or `None`.
        num_rounds: Integer, the most rounds. Rounds end when they no longer pay.
        solver: The assignment solver, whatever `keras_lightrnn.assignment.get` takes. `None`
            is the auction with a tolerance of 0.1 % of the gain. Above 20,000 words it is the
            greedy one in the first round, unless there is `initial`, and then a sweep of the
            alternating one a round; above 300,000, the greedy one alone.
        initial: The `Allocation` to start from; `None` to halve the words again and again.
        verbose: Integer, 0 or 1. With 1 each round is reported on standard output.

    Returns:
        An `Allocation`.

    Raises:
        ValueError: if `features` is no finite matrix, or the table is too small.

    Example:

    >>> features = [[1.0, 2.0], [9.0, 1.0], [1.0, 1.0], [9.0, 2.0]]
    >>> allocation = cluster_features(features, solver="exact")
    >>> (allocation.rows == allocation.rows[0]).tolist()
    [True, False, True, False]
    >>> (allocation.columns == allocation.columns[0]).tolist()
    [True, False, False, True]
    """
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not np.isfinite(features).all():
        raise ValueError(
            "`features` must be a matrix of finite numbers, one row for each word. Received: "
            f"features.shape={features.shape}, {np.count_nonzero(~np.isfinite(features))} of them "
            "not finite."
        )
    check_size("num_rounds", num_rounds)
    shape = compute_table_shape(len(features), num_rows, num_columns)
    has_features = features.any(axis=1)
    if has_features.any() and not has_features.all():
        # Equal words by the thousand would draw vectors to themselves for nothing.
        chosen = cluster_features(
            features[has_features],
            *shape,
            num_rounds=num_rounds,
            solver=solver,
            initial=None if initial is None else _select_words(initial, has_features),
            verbose=verbose,
        )
        cells = np.empty(len(features), np.int64)
        cells[has_features] = chosen.cells
        others = np.count_nonzero(~has_features)
        cells[~has_features] = np.flatnonzero(chosen.words.ravel() < 0)[:others]
        return Allocation(cells, *shape)
    if solver is not None:
        solver = assignment.get(solver)  # a bad one raises at once
    start = time.perf_counter()

    allocation = _compute_start(features, *shape) if initial is None else initial
    row_vectors, column_vectors, error = _fit_vectors(features, allocation)
    best, best_error = allocation, error
    # (V, F + 1): the last factor carries the squared length of the vector.
    factors = np.concatenate([2 * features, -np.ones((len(features), 1), np.float32)], axis=1)
    for round_ in range(num_rounds):
        if verbose:
            print(f"round {round_}: error {error:.6g}, {time.perf_counter() - start:.1f} s")
        problem = assignment.AssignmentProblem.from_factors(
            factors, _with_square(row_vectors), factors, _with_square(column_vectors)
        )
        is_fresh = initial is None and round_ == 0
        round_solver, least_gain = solver, _LEAST_GAIN
        if solver is None:
            round_solver, least_gain = _choose_solver(len(features), is_fresh)
        allocation = round_solver.solve(problem, initial=allocation).allocation
        row_vectors, column_vectors, error = _fit_vectors(features, allocation)
        gain = best_error - error
        if gain > 0:
            best, best_error = allocation, error
        if gain <= least_gain * best_error and not is_fresh:
            break
    if verbose:
        print(f"clustered: error {best_error:.6g}, {time.perf_counter() - start:.1f} s")
    return best


def exchange_words(
    features: np.ndarray, allocation: Allocation, is_movable: np.ndarray, num_rounds: int = 10
) -> Allocation:
    """Let some words exchange their cells, all others staying, to lower the error of clustering.

    By turns the words of each row exchange their columns and those of each column their rows, by
    exact assignments, and vectors are fitted anew. It takes little time where few may move.

    Args:
        features: `(V, F)` float32. Words whose features are all zero stay.
        allocation: The `Allocation` to start from.
        is_movable: `(V,)` booleans, which words may move.
        num_rounds: Integer, the most rounds. Rounds end when they no longer pay.

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
    for _ in range(num_rounds):
        _exchange_places(features, movable, rows, columns, column_vectors)
        _, (row_vectors, _, _) = fit()
        _exchange_places(features, movable, columns, rows, row_vectors)
        here, (_, column_vectors, error) = fit()
        gain = best_error - error
        if gain > 0:
            best, best_error = here, error
        if gain <= _LEAST_GAIN_OF_EXCHANGE * best_error:
            break
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
        places[some] = offered[linear_sum_assignment(costs)[1]]


def _choose_solver(num_words: int, is_fresh: bool) -> tuple[assignment.AssignmentSolver, float]:
    """Return the solver of a round, from a fresh start or a better one, and its least gain."""
    if num_words <= AUCTION_SIZE:
        # A loose tolerance will do: the vectors move after every round anyway.
        return assignment.AuctionSolver(gap_tolerance=1e-3), _LEAST_GAIN
    if is_fresh or num_words > _SWEEP_SIZE:
        return assignment.GreedySolver(), _LEAST_GAIN
    return assignment.AlternatingSolver(max_sweeps=1), _LEAST_GAIN_OF_SWEEP


def compute_cluster_error(features: np.ndarray, allocation: Allocation) -> float:
    """Return what `cluster_features` minimises, for an allocation and its best vectors."""
    return _fit_known(features, allocation)[2]


def _fit_known(
    features: np.ndarray, allocation: Allocation
) -> tuple[np.ndarray, np.ndarray, float]:
    """Do what `_fit_vectors` does, without the words of which nothing is known."""
    has_features = np.asarray(features.any(axis=1))
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
    means = _average(features, rows, num_rows)
    columns = _bisect(features - means[rows], num_columns)
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
    """Return the best row and column vectors of an allocation, and the error they leave."""
    rows, columns = allocation.rows, allocation.columns
    row_vectors = _average(features, rows, allocation.num_rows)
    column_vectors = np.zeros((allocation.num_columns, features.shape[1]), np.float32)
    # With every cell full one sweep is exact. Empty cells tie rows to columns: sweep on.
    for _ in range(1 if allocation.vocabulary_size == allocation.num_cells else _FIT_SWEEPS):
        column_vectors = _average(features - row_vectors[rows], columns, allocation.num_columns)
        # A constant may move between the two; with mean zero their products matter least.
        column_vectors -= column_vectors.mean(axis=0)
        row_vectors = _average(features - column_vectors[columns], rows, allocation.num_rows)
    residual = features - row_vectors[rows] - column_vectors[columns]
    return row_vectors, column_vectors, float(np.square(residual).sum(dtype=np.float64))


def _average(values: np.ndarray, groups: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the mean of each group's rows `(num_groups, F)`, zero for an empty group."""
    members = scipy.sparse.csr_matrix(
        (np.ones(len(groups), np.float32), groups, np.arange(len(groups) + 1)),
        shape=(len(groups), num_groups),
    )
    sizes = np.maximum(np.bincount(groups, minlength=num_groups), 1)
    return (members.T @ values) / sizes[:, None].astype(np.float32)


def _with_square(vectors: np.ndarray) -> np.ndarray:
    """Append the squared length of each vector `(n, F + 1)`."""
    return np.concatenate([vectors, np.square(vectors).sum(axis=1, keepdims=True)], axis=1)
