"""Features of words from their neighbours, and allocations from these features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, overload

import numpy as np
import scipy.sparse

from keras_lightrnn import assignment
from keras_lightrnn._internal.checks import check_not_negative, check_size, check_stream
from keras_lightrnn._internal.progress import Progress
from keras_lightrnn.clustering.two_way import cluster_features
from keras_lightrnn.clustering.vectors import scale_features
from keras_lightrnn.table.allocation import Allocation, compute_table_shape

# Words counted at a time. Smaller blocks take more time and less memory.
_BLOCK_SIZE = 1 << 21
# A power below one on the counts of neighbours reduces the bias of pointwise mutual information
# towards rare neighbours.
_CONTEXT_POWER = 0.75
# A pair seen n times keeps n / (n + this) of its information, because single sightings are mostly
# chance.
_PAIR_DISCOUNT = 3.0
_OVERSAMPLING = 16
# Squared singular values below this share of the largest are rounding in float32.
_LEAST_SQUARE = 1e-5
_POWER_ITERATIONS = 3


@overload
def cluster_words(
    words: Any,
    vocabulary_size: int,
    num_rows: int | None = None,
    num_columns: int | None = None,
    *,
    num_tables: None = None,
    num_features: int = 64,
    window: int = 1,
    num_rounds: int = 10,
    solver: Any = None,
    max_contexts: int = 8192,
    mask_zero: bool = False,
    seed: int = 0,
    verbose: int = 0,
) -> Allocation: ...


@overload
def cluster_words(
    words: Any,
    vocabulary_size: int,
    num_rows: int | None = None,
    num_columns: int | None = None,
    *,
    num_tables: int,
    num_features: int = 64,
    window: int = 1,
    num_rounds: int = 10,
    solver: Any = None,
    max_contexts: int = 8192,
    mask_zero: bool = False,
    seed: int = 0,
    verbose: int = 0,
) -> list[Allocation]: ...


def cluster_words(
    words: Any,
    vocabulary_size: int,
    num_rows: int | None = None,
    num_columns: int | None = None,
    *,
    num_tables: int | None = None,
    num_features: int = 64,
    window: int = 1,
    num_rounds: int = 10,
    solver: Any = None,
    max_contexts: int = 8192,
    mask_zero: bool = False,
    seed: int = 0,
    verbose: int = 0,
) -> Allocation | list[Allocation]:
    """Allocate words so that words with similar neighbours share rows, and columns.

    The features of `compute_word_features` are clustered by `cluster_features`. Words that never
    occur have no features and get the remaining cells.

    Args:
        words: Word ids `(N,)`, `keras_lightrnn.data.TokenShards`, or an iterable of vectors of
            word ids: one stream, read once. The ends of vectors are ignored: separate sessions or
            documents by a word 0 and give `mask_zero=True`.
        vocabulary_size: Integer `V`.
        num_rows: Integer `R`, or `None`.
        num_columns: Integer `C`, or `None`.
        num_tables: Integer, the number of tables to return in a list, or `None` for one
            `Allocation`. Each further table is clustered by the features that the earlier tables
            leave unexplained. Defaults to `None`.
        num_features: Integer, the number of features of a word. Defaults to 64.
        window: Integer, the number of neighbours on the left and on the right. Defaults to 1.
        num_rounds: Integer, the maximum number of rounds of clustering. Defaults to 10.
        solver: The assignment solver, as `keras_lightrnn.assignment.get` takes it, or `None`
            for the default of `cluster_features`.
        max_contexts: Integer, the number of words, the most frequent ones, that count as
            neighbours. Defaults to 8192.
        mask_zero: Boolean, whether word 0 is padding. It has no features then, is a neighbour of
            no word, and words on different sides of it are not neighbours. Defaults to False.
        seed: Integer. Equal seeds give equal allocations. Defaults to 0.
        verbose: Integer, 0 or 1. With 1, progress is shown on standard error.

    Returns:
        An `Allocation`; with `num_tables`, a list of `num_tables` allocations.

    Raises:
        TypeError: if `words` does not hold integers.
        ValueError: if `words` is empty or holds an id outside of `[0, V)`, or an argument
            is out of range.

    Example:

    >>> words = np.tile([0, 2, 1, 3], 50)  # 0 and 1 come before 2 and 3
    >>> allocation = cluster_words(words, vocabulary_size=4)
    >>> sorted(allocation.cells.tolist())
    [0, 1, 2, 3]
    """
    num_rows, num_columns = compute_table_shape(vocabulary_size, num_rows, num_columns)
    if num_tables is not None:
        check_size("num_tables", num_tables)
    check_size("num_rounds", num_rounds)
    # Before the words are read, because that may take hours.
    solver = None if solver is None else assignment.get(solver)
    features, _ = compute_word_features(
        words,
        vocabulary_size,
        num_features=num_features,
        window=window,
        max_contexts=max_contexts,
        mask_zero=mask_zero,
        seed=seed,
        verbose=verbose,
    )
    options: Any = {"num_rounds": num_rounds, "solver": solver, "seed": seed, "verbose": verbose}
    return cluster_features(features, num_rows, num_columns, num_tables=num_tables, **options)


def compute_word_features(
    words: Any,
    vocabulary_size: int,
    *,
    num_features: int = 64,
    window: int = 1,
    max_contexts: int = 8192,
    max_pairs: int = 1 << 26,
    mask_zero: bool = False,
    seed: int = 0,
    verbose: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute a vector for each word from its left and right neighbours.

    The features are the leading left singular vectors of the positive pointwise mutual information
    of words `w` and neighbours `c`,

        n_wc / (n_wc + 3) * max(0, log(P(w, c) / (P(w) * P'(c)))),

    times the square roots of the singular values. `P'(c)` is `n_c**0.75` over the sum of all
    `n**0.75`. The first factor discounts pairs that were seen once or twice. Left and right
    neighbours are separate columns of a sparse `(V, 2 * max_contexts)` matrix. The singular value
    decomposition is randomised. A word's vector is scaled to the length `log(1 + n_w)`: its
    direction describes the usage of the word, and its length the importance.

    Memory is bounded by a block of the stream, at most `max_pairs` distinct pairs of neighbours (16
    bytes each, about three times that while they are merged), and a few `(V, num_features)`
    matrices. If there are more pairs, pairs without any of the `max_contexts` most frequent words
    so far are dropped first, then the rarest pairs.

    Args:
        words: Word ids `(N,)`, `keras_lightrnn.data.TokenShards`, or an iterable of vectors of
            word ids: one stream, read once. The ends of vectors are ignored: separate sessions or
            documents by a word 0 and give `mask_zero=True`.
        vocabulary_size: Integer `V`.
        num_features: Integer, the maximum number of features of a word. Defaults to 64.
        window: Integer. The `d`-th word to either side counts `window + 1 - d` times. Defaults
            to 1.
        max_contexts: Integer, the number of words, the most frequent ones, that count as
            neighbours. Defaults to 8192.
        max_pairs: Integer, the maximum number of distinct pairs to keep. Defaults to `2**26`.
        mask_zero: Boolean, whether word 0 is padding. It has no features then, is a neighbour of
            no word, and words on different sides of it are not neighbours. Defaults to False.
        seed: Integer, for the randomised decomposition. Defaults to 0.
        verbose: Integer, 0 or 1. With 1, progress is shown on standard error.

    Returns:
        Tuple of the features `(V, min(num_features, V))` float32, zero for words that never
        occur, and the number of occurrences of each word `(V,)` int64.

    Raises:
        TypeError: if `words` does not hold integers.
        ValueError: if `words` is empty or holds an id outside of `[0, V)`, or an argument
            is out of range.

    Example:

    >>> words = np.tile([0, 2, 1, 3], 50)
    >>> features, counts = compute_word_features(words, vocabulary_size=5, num_features=2)
    >>> features.shape, counts.tolist()
    ((5, 2), [50, 50, 50, 50, 0])
    >>> features[4].tolist()
    [0.0, 0.0]
    """
    vocabulary_size = check_size("vocabulary_size", vocabulary_size)
    num_features = check_size("num_features", num_features)
    window = check_size("window", window)
    max_contexts = check_size("max_contexts", max_contexts)
    max_pairs = check_size("max_pairs", max_pairs)
    seed = check_not_negative("seed", seed)
    progress = Progress(verbose)
    counts, first, second, times = _count_pairs(
        words, vocabulary_size, window, max_contexts, max_pairs, mask_zero, progress
    )
    progress.update("features", "decomposing")
    information = _compute_information(counts, first, second, times, window, max_contexts)
    left, values = _decompose(information, num_features, np.random.default_rng(seed))
    progress.end_stage(
        "features",
        f"{counts.sum()} words read, {np.count_nonzero(counts)} of {vocabulary_size} occur, "
        f"{values.size} features",
    )
    return scale_features(left * np.sqrt(values), counts), counts


# Counting.


def _read_blocks(words: Any, vocabulary_size: int) -> Iterator[np.ndarray]:
    """Yield the checked stream in int64 blocks of a fixed size; the last may be shorter."""
    pieces: list[np.ndarray] = []
    num_words = held = 0
    for ids in check_stream(words, vocabulary_size):
        num_words += ids.size
        held += ids.size
        pieces.append(ids)
        if held >= _BLOCK_SIZE:
            joined = np.concatenate(pieces)
            held = joined.size % _BLOCK_SIZE
            for begin in range(0, joined.size - held, _BLOCK_SIZE):
                yield joined[begin : begin + _BLOCK_SIZE].astype(np.int64)
            pieces = [joined[joined.size - held :]]
    if num_words == 0:
        raise ValueError(
            "`words` must hold at least one word. Received: an empty stream. A generator can be "
            "read only once: make a new one."
        )
    if held:
        yield np.concatenate(pieces).astype(np.int64)


def _count_pairs(
    words: Any,
    vocabulary_size: int,
    window: int,
    max_contexts: int,
    max_pairs: int,
    mask_zero: bool,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the counts of words, and of ordered pairs: first word, second word, times."""
    counts = np.zeros(vocabulary_size, np.int64)
    # Sorted runs of descending length, so that each pair is merged a logarithmic number of times.
    runs: list[tuple[np.ndarray, np.ndarray]] = []
    before = np.empty(0, np.int64)
    for block in _read_blocks(words, vocabulary_size):
        counts += np.bincount(block, minlength=vocabulary_size)
        text = np.concatenate([before, block])
        parts = np.cumsum(text == 0) if mask_zero else None
        for distance in range(1, window + 1):
            # Pairs within `before` were counted with the last block.
            begin = max(0, before.size - distance)
            firsts, seconds = text[begin:-distance], text[begin + distance :]
            if parts is not None:
                # A word 0 starts a part, so the words of a pair with it or across it are in
                # different parts, unless it is the first of the pair.
                is_pair = (parts[begin:-distance] == parts[begin + distance :]) & (firsts != 0)
                firsts, seconds = firsts[is_pair], seconds[is_pair]
            keys, times = np.unique(firsts * vocabulary_size + seconds, return_counts=True)
            runs.append((keys, times * (window + 1 - distance)))
            while len(runs) > 1 and runs[-2][0].size <= 2 * runs[-1][0].size:
                runs.append(_merge_runs([runs.pop(), runs.pop()]))
        before = text[-window:]
        if sum(keys.size for keys, _ in runs) > max_pairs:
            runs = [_prune_run(_merge_runs(runs), counts, max_contexts, max_pairs)]
        progress.update("features", f"{counts.sum()} words read")
    if mask_zero:
        counts[0] = 0
        if not counts.any():
            raise ValueError(
                "`words` must hold at least one word that is not padding. Received: only words 0 "
                "and mask_zero=True. Give mask_zero=False if 0 is a word."
            )
    keys, times = _merge_runs(runs)
    first, second = np.divmod(keys, vocabulary_size)
    return counts, first, second, times


def _merge_runs(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.concatenate([keys for keys, _ in runs])
    if keys.size == 0:
        return keys, np.empty(0, np.int64)
    order = np.argsort(keys, kind="stable")  # linear for a few sorted runs
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    times = np.concatenate([times for _, times in runs])[order]
    return keys[starts], np.add.reduceat(times, starts)


def _prune_run(
    run: tuple[np.ndarray, np.ndarray], counts: np.ndarray, max_contexts: int, max_pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    keys, times = run
    is_context = np.zeros(counts.size, bool)
    is_context[_most_frequent(counts, max_contexts)] = True
    first, second = np.divmod(keys, counts.size)
    kept = is_context[first] | is_context[second]
    keys, times = keys[kept], times[kept]
    if keys.size > max_pairs:
        # Keep half, so that the next block does not overflow again. Ties go to the smaller key.
        kept = np.sort(np.argsort(-times, kind="stable")[: max_pairs // 2])
        keys, times = keys[kept], times[kept]
    return keys, times


def _most_frequent(counts: np.ndarray, size: int) -> np.ndarray:
    return np.argsort(-counts, kind="stable")[:size]


# Features.


def _compute_information(
    counts: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    times: np.ndarray,
    window: int,
    max_contexts: int,
) -> scipy.sparse.csr_matrix:
    """Return positive pointwise mutual information, left and right contexts side by side."""
    contexts = _most_frequent(counts, max_contexts)
    context_index = np.full(counts.size, -1)
    context_index[contexts] = np.arange(contexts.size)
    smoothed = counts.astype(float) ** _CONTEXT_POWER
    log_context = np.log(np.maximum(smoothed[contexts], 1) / smoothed.sum())
    # The weighted pairs of an occurrence on either side.
    pairs_a_word = window * (window + 1) / 2

    sides = []
    for word, neighbour in ((second, first), (first, second)):
        kept = context_index[neighbour] >= 0
        word, column, pairs = word[kept], context_index[neighbour[kept]], times[kept]
        value = np.log(pairs / (counts[word] * pairs_a_word)) - log_context[column]
        value *= pairs / (pairs + _PAIR_DISCOUNT)
        positive = value > 0
        sides.append(
            scipy.sparse.csr_matrix(
                (value[positive].astype(np.float32), (word[positive], column[positive])),
                shape=(counts.size, contexts.size),
            )
        )
    return scipy.sparse.hstack(sides, format="csr")  # (V, 2 * contexts)


def _decompose(
    matrix: scipy.sparse.csr_matrix, rank: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return leading left singular vectors `(V, rank)` and singular values `(rank,)`.

    Halko, Martinsson, Tropp, "Finding structure with randomness", SIAM Review 2011.
    """
    rank = min(rank, *matrix.shape)
    size = min(rank + _OVERSAMPLING, *matrix.shape)
    sample = generator.standard_normal((matrix.shape[1], size), np.float32)
    basis = _orthonormalise(matrix @ sample)  # (V, size)
    for _ in range(_POWER_ITERATIONS):
        basis = _orthonormalise(matrix @ _orthonormalise(matrix.T @ basis))
    # The decomposition of the tall matrix takes contexts x size**2 operations.
    _, values, left = np.linalg.svd(matrix.T @ basis, full_matrices=False)
    return basis @ left.T[:, :rank], values[:rank]


def _orthonormalise(vectors: np.ndarray) -> np.ndarray:
    """Return orthonormal columns of the same span, some of them zero if the rank is smaller.

    The Gram matrix takes matrix products only and is many times faster than a QR factorisation.
    """
    squares, directions = np.linalg.eigh(vectors.T @ vectors)
    kept = squares > _LEAST_SQUARE * squares[-1]
    scales = np.where(kept, 1 / np.sqrt(np.where(kept, squares, 1)), 0)
    return vectors @ (directions * scales)
