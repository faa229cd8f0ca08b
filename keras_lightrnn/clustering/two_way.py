"""Two-way additive clustering: similar words share rows and columns."""

from __future__ import annotations

from typing import Any, overload

import numpy as np

from keras_lightrnn import assignment
from keras_lightrnn._internal.checks import check_not_negative, check_size
from keras_lightrnn._internal.progress import Progress
from keras_lightrnn._internal.threads import map_slices
from keras_lightrnn.clustering.vectors import (
    backfit,
    check_features,
    compute_energy,
    fit_vectors,
    select_words,
    sum_by_group,
)
from keras_lightrnn.table.allocation import Allocation, compute_table_shape

# Words that say along which direction many are bisected.
_SAMPLE_SIZE = 20_000
_DIRECTION_STEPS = 20
_TINY = np.finfo(np.float32).tiny
# In larger vocabularies the many similar rare words make an auction take minutes.
AUCTION_SIZE = 20_000
# The tolerance of the auction. A loose one is enough, because vectors move after each round.
_GAP_TOLERANCE = 1e-3
# The least tolerance for rounds of a larger vocabulary, where each takes many seconds.
_EXCHANGE_TOLERANCE = 0.01
# In larger vocabularies a greedy assignment, whose time grows as V**1.5, gains less than passes of
# that time.
_GREEDY_SIZE = 500_000
# Rows, and columns, of the blocks in which words exchange cells. Larger blocks gain more in a pass,
# which takes longer.
_BLOCK_SIDE = 12
# Blocks that a thread computes at a time, about 10 ms of work.
_BLOCKS_A_SLICE = 64
# Passes over all cells that make up a round. Vectors are fitted after each pass.
_PASSES_A_ROUND = 8


@overload
def cluster_features(
    features: Any,
    num_rows: int | None = None,
    num_columns: int | None = None,
    *,
    num_tables: None = None,
    num_rounds: int = 10,
    tolerance: float = 1e-4,
    solver: Any = None,
    initial: Allocation | None = None,
    seed: int = 0,
    verbose: int = 0,
) -> Allocation: ...


@overload
def cluster_features(
    features: Any,
    num_rows: int | None = None,
    num_columns: int | None = None,
    *,
    num_tables: int,
    num_rounds: int = 10,
    tolerance: float = 1e-4,
    solver: Any = None,
    initial: Allocation | None = None,
    seed: int = 0,
    verbose: int = 0,
) -> list[Allocation]: ...


def cluster_features(
    features: Any,
    num_rows: int | None = None,
    num_columns: int | None = None,
    *,
    num_tables: int | None = None,
    num_rounds: int = 10,
    tolerance: float = 1e-4,
    solver: Any = None,
    initial: Allocation | None = None,
    seed: int = 0,
    verbose: int = 0,
) -> Allocation | list[Allocation]:
    """Allocate words so that the sum of a row vector and a column vector is near their features.

    Minimises

        sum over words w of |features_w - row_vector[row(w)] - column_vector[column(w)]|**2

    over the allocation and the vectors. The first allocation bisects the words recursively. Each
    round fits the vectors by least squares and then assigns the words to the cells. Words whose
    features are all zero get the remaining cells.

    Up to 20,000 words, the default assignment is an auction of all cells. Above, a greedy
    assignment (up to 500,000 words) is followed by passes over all cells, in which words exchange
    their cells within small blocks: random projection trees cut rows and columns into groups of 12
    similar ones, and a group of rows and a group of columns form a block, in which up to five words
    exchange their cells at a time. Blocks run on several threads (`NUMBA_NUM_THREADS`, by default
    the cores of the process). The result does not depend on the number of threads.

    With `num_tables`, the first table is clustered in this way. Each further table is clustered by
    the residual features, which the row and column vectors of the earlier tables do not explain, so
    that words that share a row or a column in one table are apart in the next one.

    Args:
        features: `(V, F)` floats.
        num_rows: Integer `R`, or `None`: the rows of `initial`, or near the square root of `V`.
        num_columns: Integer `C`, or `None`, likewise.
        num_tables: Integer, the number of tables to return in a list, or `None` for one
            `Allocation`. Defaults to `None`.
        num_rounds: Integer, the maximum number of rounds (of 8 passes each above 20,000 words).
            Defaults to 10.
        tolerance: Float. Rounds end when one lowers the error by at most this share. Above 20,000
            words it is at least 0.01. Defaults to 1e-4.
        solver: An assignment solver for all words, as `keras_lightrnn.assignment.get` takes it, or
            `None` for the default described above. A solver neglects the products of row and column
            vectors, which matters little unless many cells are empty. Defaults to `None`.
        initial: The `Allocation` that the first table starts from, or `None` to bisect the words.
        seed: Integer, for the random projections. Equal seeds give equal allocations.
        verbose: Integer, 0 or 1. With 1, progress is shown on standard error.

    Returns:
        An `Allocation`; with `num_tables`, a list of `num_tables` allocations.

    Raises:
        ValueError: if `features` is not a matrix of finite numbers whose squares fit into float32,
            the table is too small, an argument is out of range, or `initial` has another number of
            words or another table shape.
        KeyboardInterrupt: if interrupted, also while a solver runs.

    Example:

    >>> features = [[1.0, 2.0], [9.0, 1.0], [1.0, 1.0], [9.0, 2.0]]
    >>> allocation = cluster_features(features)
    >>> (allocation.rows == allocation.rows[0]).tolist()
    [True, False, True, False]
    >>> (allocation.columns == allocation.columns[0]).tolist()
    [True, False, False, True]
    >>> [table.shape for table in cluster_features(features, num_tables=2)]
    [(2, 2), (2, 2)]
    """
    features = check_features(features)
    check_size("num_rounds", num_rounds)
    seed = check_not_negative("seed", seed)
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must not be negative. Received: tolerance={tolerance}.")
    if num_tables is not None:
        check_size("num_tables", num_tables)
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
    known = features if has_features.all() else features[has_features]
    start = None if initial is None else select_words(initial, has_features)
    solver = None if solver is None else assignment.get(solver)
    tables: list[Allocation] = []
    rest = known
    for number in range(num_tables or 1):
        if tables:
            (rest, _), start = backfit(known, tables), None
        progress = Progress(verbose)
        progress.update("clustering", "bisecting words")
        found = _compute_start(rest, *shape) if start is None else start
        if solver is not None or len(known) <= AUCTION_SIZE:
            chosen = solver or assignment.AuctionSolver(gap_tolerance=_GAP_TOLERANCE)
            found = _alternate(rest, found, chosen, num_rounds, tolerance, progress)
        else:
            if start is None and len(known) <= _GREEDY_SIZE:
                found = _alternate(rest, found, assignment.GreedySolver(), 1, tolerance, progress)
            found = _exchange(
                rest, found, np.zeros(shape, bool), num_rounds=num_rounds,
                tolerance=max(tolerance, _EXCHANGE_TOLERANCE), seed=seed + number,
                progress=progress,
            )  # fmt: skip
        tables.append(found)
        if verbose:
            share = fit_vectors(rest, found)[2] / max(compute_energy(known), _TINY)
            name = f"table {number + 1} of {num_tables}" if num_tables else "clustered"
            progress.end_stage(name, f"{100 * share:.1f} % of the features unexplained")
    tables = [_place_others(table, has_features) for table in tables]
    return tables[0] if num_tables is None else tables


def _place_others(chosen: Allocation, is_chosen: np.ndarray) -> Allocation:
    """Put the words that were not chosen into the remaining cells."""
    if is_chosen.all():
        return chosen
    cells = np.empty(len(is_chosen), np.int64)
    cells[is_chosen] = chosen.cells
    num_others = np.count_nonzero(~is_chosen)
    cells[~is_chosen] = np.flatnonzero(chosen.words.ravel() < 0)[:num_others]
    return Allocation(cells, *chosen.shape)


def exchange_words(
    features: np.ndarray,
    allocation: Allocation,
    is_movable: np.ndarray,
    *,
    num_rounds: int = 10,
    tolerance: float = 0.02,
    seed: int = 0,
    verbose: int = 0,
) -> Allocation:
    """Exchange the cells of some words to lower the error of `cluster_features`.

    All other words stay, and empty cells stay empty.

    Args:
        features: `(V, F)` float32. Words whose features are all zero stay.
        allocation: The `Allocation` to start from.
        is_movable: `(V,)` booleans, the words that may move.
        num_rounds: Integer, the maximum number of rounds of 8 passes. Defaults to 10.
        tolerance: Float. Rounds end when one lowers the error by at most this share. Defaults to
            0.02.
        seed: Integer, for the random projections. Equal seeds give equal allocations.
        verbose: Integer, 0 or 1. With 1, progress is shown on standard error.

    Returns:
        An `Allocation`.

    Example:

    >>> features = np.array([[1.0], [8.0], [9.0], [2.0], [5.0]], np.float32)
    >>> allocation = Allocation([0, 1, 2, 3, 5], num_rows=3, num_columns=2)
    >>> found = exchange_words(features, allocation, np.array([True, True, True, True, False]))
    >>> found.rows.tolist(), int(found.cells[4])
    ([0, 1, 1, 0, 2], 5)
    """
    has_features = np.asarray(features.any(axis=1))
    moving = is_movable & has_features
    if not moving.any():
        return allocation
    is_fixed = np.ones(allocation.shape, bool)
    is_fixed[allocation.rows[moving], allocation.columns[moving]] = False
    found = _exchange(
        features[has_features], select_words(allocation, has_features), is_fixed,
        num_rounds=num_rounds, tolerance=tolerance, seed=seed, progress=Progress(verbose),
    )  # fmt: skip
    cells = allocation.cells.copy()
    cells[has_features] = found.cells
    return Allocation(cells, *allocation.shape)


def _alternate(
    features: np.ndarray,
    allocation: Allocation,
    solver: assignment.AssignmentSolver,
    num_rounds: int,
    tolerance: float,
    progress: Progress,
) -> Allocation:
    """Fit vectors and assign words in turn; return the best allocation."""
    row_vectors, column_vectors, error = fit_vectors(features, allocation)
    best, best_error = allocation, error
    # (V, F + 1): the last factor multiplies the squared length of the vector.
    factors = np.concatenate([2 * features, -np.ones((len(features), 1), np.float32)], axis=1)
    for number in range(num_rounds):
        progress.update("clustering", f"round {number + 1} of {num_rounds}, error {error:.6g}")
        problem = assignment.AssignmentProblem.from_factors(
            factors, _with_square(row_vectors), factors, _with_square(column_vectors)
        )
        solution = solver.solve(problem, initial=allocation)
        if solution.status is assignment.AssignmentStatus.INTERRUPTED:
            raise KeyboardInterrupt
        allocation = solution.allocation
        row_vectors, column_vectors, error = fit_vectors(features, allocation)
        gain = best_error - error
        if gain > 0:
            best, best_error = allocation, error
        if gain <= tolerance * best_error:
            break
    return best


def _exchange(
    features: np.ndarray,
    allocation: Allocation,
    is_fixed: np.ndarray,
    *,
    num_rounds: int,
    tolerance: float,
    seed: int,
    progress: Progress,
) -> Allocation:
    """Exchange cells within blocks of similar rows and columns; return the best allocation.

    Args:
        features: `(V, F)` float32.
        allocation: The `Allocation` of these words to start from.
        is_fixed: `(R, C)` booleans, the cells that do not change; also those of other words.
        num_rounds: Integer, the maximum number of rounds of `_PASSES_A_ROUND` passes.
        tolerance: Float. Rounds end when one lowers the error by at most this share.
        seed: Integer, for the random projections.
        progress: `Progress`.
    """
    from keras_lightrnn.clustering import _kernels  # late, because it imports Numba

    generator = np.random.default_rng(seed)
    num_rows, num_columns = allocation.shape
    words = np.where(is_fixed, _kernels.FIXED, allocation.words)  # (R, C)
    cells = allocation.cells.copy()
    best = allocation
    energy = compute_energy(features)
    row_vectors, column_vectors, error = fit_vectors(features, allocation, energy)
    best_error = error
    # If there are few rows, groups of columns are larger, and the reverse.
    row_size, column_size = (
        max(_BLOCK_SIDE, _BLOCK_SIDE**2 // num_across) for num_across in (num_columns, num_rows)
    )
    for number in range(num_rounds):
        last_error = best_error
        for _ in range(_PASSES_A_ROUND):
            row_order, row_borders = _draw_groups(row_vectors, row_size, generator)
            column_order, column_borders = _draw_groups(column_vectors, column_size, generator)
            given = (
                row_order, row_borders, column_order, column_borders,
                features, row_vectors, column_vectors,
            )  # fmt: skip

            def exchange(blocks: slice, given: tuple[np.ndarray, ...] = given) -> int:
                return int(_kernels.exchange_in_blocks(blocks.start, blocks.stop, *given, words))

            num_blocks = (row_borders.size - 1) * (column_borders.size - 1)
            if sum(map_slices(exchange, num_blocks, _BLOCKS_A_SLICE)):
                places = np.flatnonzero(words >= 0)
                cells[words.ravel()[places]] = places
                found = Allocation(cells, *allocation.shape)
                row_vectors, column_vectors, error = fit_vectors(features, found, energy)
                if error < best_error:
                    best, best_error = found, error
            progress.update("clustering", f"round {number + 1} of {num_rounds}, error {error:.6g}")
        if last_error - best_error <= tolerance * best_error:
            break
    return best


def _draw_groups(
    vectors: np.ndarray, size: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Cut rows (or columns) into groups of similar ones, by a tree of random projections.

    Each part is sorted along a random direction and cut in the middle, until its size is right.

    Args:
        vectors: `(R, F)`.
        size: Integer, the largest size of a group. Sizes differ by at most one.
        generator: Random generator.

    Returns:
        The order, `(R,)`, and the borders of the groups in it.

    Reference:
        Dasgupta and Freund, "Random projection trees and low dimensional manifolds", STOC 2008.
    """
    num_groups = -(-len(vectors) // size)
    borders = np.arange(num_groups + 1) * len(vectors) // num_groups
    order = np.arange(len(vectors))
    pending = [(0, num_groups)]
    while pending:
        first, last = pending.pop()
        if last - first == 1:
            continue
        part = order[borders[first] : borders[last]]
        here = vectors[part]
        here = here - here.mean(axis=0)
        # A combination of the vectors is likely to follow their widest directions.
        direction = here.T @ generator.standard_normal(len(here), np.float32)
        part[:] = part[np.argsort(here @ direction, kind="stable")]
        middle = (first + last) // 2
        pending += [(first, middle), (middle, last)]
    return order, borders


def _compute_start(features: np.ndarray, num_rows: int, num_columns: int) -> Allocation:
    """Bisect the words recursively along their widest direction, for rows and then for columns."""
    rows = _bisect(features, num_rows)
    sizes = np.maximum(np.bincount(rows, minlength=num_rows), 1)[:, None]
    means = sum_by_group(features, rows, num_rows) / sizes
    columns = _bisect(features - means.astype(np.float32)[rows], num_columns)
    # A row may hold several words of one column group or none; their order in the row is kept.
    order = np.lexsort((columns, rows))
    begins = np.searchsorted(rows[order], np.arange(num_rows))
    cells = np.empty(len(features), np.int64)
    cells[order] = rows[order] * num_columns + np.arange(len(features)) - begins[rows[order]]
    return Allocation(cells, num_rows, num_columns)


def _bisect(features: np.ndarray, num_groups: int) -> np.ndarray:
    """Return the group of each word. Sizes of groups differ by at most one."""
    groups = np.empty(len(features), np.int64)
    ends = np.arange(num_groups + 1) * len(features) // num_groups
    pending = [(np.arange(len(features)), 0, num_groups)]
    while pending:
        words, begin, end = pending.pop()
        if end - begin == 1 or words.size == 0:
            groups[words] = begin
            continue
        here = features[words]
        sample = here[:: -(-len(here) // _SAMPLE_SIZE)]
        sample = sample - sample.mean(axis=0)
        spread = sample.T @ sample  # (F, F)
        # Power iteration from the widest axis. An approximate direction is enough, and unlike an
        # eigenvector of `eigh` it has a definite sign.
        direction = spread[np.argmax(np.diagonal(spread))]
        for _ in range(_DIRECTION_STEPS):
            direction = spread @ (direction / max(np.linalg.norm(direction), _TINY))
        middle = (begin + end) // 2
        size = ends[middle] - ends[begin]
        if 0 < size < len(words):
            words = words[np.argpartition(here @ direction, size)]
        pending += [(words[:size], begin, middle), (words[size:], middle, end)]
    return groups


def _with_square(vectors: np.ndarray) -> np.ndarray:
    """Append the squared length of each vector, `(n, F + 1)`."""
    return np.concatenate([vectors, np.square(vectors).sum(axis=1)[:, None]], axis=1)
