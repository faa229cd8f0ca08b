"""The objective that pays: words share vectors with words that the network treats alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from keras_lightrnn import assignment
from keras_lightrnn._internal.checks import check_size
from keras_lightrnn.clustering.two_way import (
    AUCTION_SIZE,
    cluster_features,
    compute_cluster_error,
    exchange_words,
    scale_features,
)
from keras_lightrnn.reallocation.objective import (
    OutputWeights,
    Proposal,
    ReallocationObjective,
    check_sums,
)
from keras_lightrnn.table.allocation import Allocation

# A mean over n occurrences keeps n / (n + this) of its distance from the mean of all words.
_SHRINKAGE = 5.0

# In a large vocabulary a word that was seen less often since the sums began stays where it is, for
# little is known of it.
_LEAST_COUNT = 2
# But all words move out of a table that leaves more than this share of what one by chance leaves.
_POOR = 0.6
# A good table is rearranged until a round lowers what it leaves by no more than this share.
_TOLERANCE = 5e-3


class SimilarityObjective(ReallocationObjective):
    """Squared distance of what the network has learnt of words from what their cells can say.

    The features of a word are the mean hidden state before its occurrences (what leads to it)
    and the mean state after them (what it leads to), reduced to `num_features` principal
    components, and with the length `log(1 + n_w)`. Words are clustered by them as
    `Allocation.from_cooccurrence` clusters by neighbours,

        sum over words w of |features_w - row_vector[row(w)] - column_vector[column(w)]|**2,

    starting from the present table, for a round or two, for most is gained in the first. A table
    that leaves more than 60 % of what a random one would says next to nothing of the features:
    words are clustered afresh, and rows and columns numbered so that as many occurrences as can be
    stay where they are. The cost is that sum as a share of what one vector for all would leave.

    In vocabularies of more than 20,000 words, where that would take minutes and most words are
    rare, those that occurred twice or more since the sums began (with rounds after epochs, in the
    epoch) exchange their cells, row by row and column by column; of rarer ones too little is
    known. A poor table is replaced by one of greedy choices, in which all words exchange their
    cells.

    A word that moves takes its shares of input and output vectors along: a vector becomes the
    mean of those of its new words, weighted by counts. So a round costs some perplexity at once
    and earns it back, with more, in the training that follows. It pays early, and in a training
    that goes on: a good table of 249,022 words is better for a round after the first of eight
    epochs, and worse after the first of three (see the README).

    Args:
        features: `(V, F)`, what is known of the words beside, such as what
            `keras_lightrnn.clustering.compute_word_features` returns, or `None`. It is set
            beside the learnt features, with the lengths that it has.
        num_features: Integer, principal components kept.
        num_rounds: Integer, the most rounds of clustering.
        solver: Whatever `keras_lightrnn.assignment.get` takes; `None` for what is said above.

    Raises:
        ValueError: if `features` is no finite matrix or an argument is out of range.

    Example:

    >>> column_sums = np.array([[9.0], [9.0], [-9.0], [-9.0]])  # 0 and 1 follow like states
    >>> sums = {"column_sums": column_sums, "following_sums": np.array([[9.0], [-9.0]] * 2),
    ...         "counts": np.full(4, 9.0), "following_counts": np.full(4, 9.0)}
    >>> weights = OutputWeights(np.zeros((2, 1)), None, np.zeros((2, 1)), None)
    >>> objective = SimilarityObjective(num_features=2)
    >>> proposal = objective.propose(sums, weights, Allocation([0, 3, 1, 2], 2, 2))
    >>> round(proposal.cost_before, 3), round(proposal.cost, 3)
    (0.5, 0.0)
    """

    name = "similarity"
    unit = "of the variance"
    sums = ("column_sums", "following_sums")
    carries_output = True

    def __init__(
        self,
        features: Any = None,
        num_features: int = 64,
        num_rounds: int = 10,
        solver: Any = None,
    ) -> None:
        check_size("num_features", num_features)
        check_size("num_rounds", num_rounds)
        if features is not None:
            features = np.asarray(features, np.float32)
            if features.ndim != 2 or not np.isfinite(features).all():
                raise ValueError(
                    "`features` must be a finite matrix, one row for each word. Received: "
                    f"features.shape={features.shape}, "
                    f"{np.count_nonzero(~np.isfinite(features))} of them not finite."
                )
        self.features = features
        self.num_features = num_features
        self.num_rounds = num_rounds
        self.solver = None if solver is None else assignment.get(solver)

    def check(self, vocabulary_size: int) -> None:
        if self.features is not None and len(self.features) != vocabulary_size:
            raise ValueError(
                f"`features` must have a row for each of the {vocabulary_size} words. Received: "
                f"features.shape={self.features.shape}."
            )

    def propose(
        self,
        sums: dict[str, np.ndarray],
        weights: OutputWeights,
        allocation: Allocation,
        prices: np.ndarray | None = None,
    ) -> Proposal:
        check_sums(sums)
        features = self.compute_features(sums)
        spread = float(np.square(features - features.mean(axis=0)).sum(dtype=np.float64))
        total = max(spread, float(np.finfo(np.float32).tiny))
        error_before = compute_cluster_error(features, allocation)
        # Each vector takes its share of the variance, whatever the words of its row or column.
        share_by_chance = 1 - (sum(allocation.shape) - 1) / len(features)
        is_poor = error_before > _POOR * share_by_chance * total
        found = self._cluster(features, allocation, sums["counts"], is_poor)
        error = compute_cluster_error(features, found)
        if error >= error_before:
            return Proposal(allocation, error_before / total, error_before / total, None, "kept")
        return Proposal(found, error_before / total, error / total, None, "clustered")

    def _cluster(
        self, features: np.ndarray, allocation: Allocation, counts: np.ndarray, is_poor: bool
    ) -> Allocation:
        """Return the allocation, or a fresh one where it is poor, after words have moved."""
        shape = allocation.shape
        is_large = self.solver is None and len(features) > AUCTION_SIZE
        options: Any = {"num_rounds": self.num_rounds}
        if is_large and is_poor:
            found = cluster_features(features, *shape, num_rounds=1, solver="greedy")
            found = exchange_words(features, found, np.ones(len(features), bool), **options)
        elif is_large:
            return exchange_words(features, allocation, counts >= _LEAST_COUNT, **options)
        elif is_poor:
            found = cluster_features(features, *shape, solver=self.solver, **options)
        else:
            options.update(initial=allocation, tolerance=_TOLERANCE, solver=self.solver)
            return cluster_features(features, *shape, **options)
        return _number_alike(found, allocation, counts)

    def compute_features(self, sums: dict[str, np.ndarray]) -> np.ndarray:
        """Return the features of the words, `(V, F)` float32; see `propose` for `sums`."""
        seen = np.flatnonzero(sums["counts"])  # of the others nothing has been learnt
        counts = sums["counts"][seen].astype(np.float32)
        parts = [
            _compute_deviations(sums["column_sums"][seen], counts),
            _compute_deviations(sums["following_sums"][seen], sums["following_counts"][seen]),
        ]
        # Both sides weigh alike, whatever the scale of the states.
        for part in parts:
            squares = np.einsum("vh,vh->v", part, part)
            part /= max(np.sqrt(np.vdot(squares, counts) / counts.sum()), 1e-30)
        states = np.concatenate(parts, axis=1)  # (words seen, 2H)
        spread = states.T @ (states * counts[:, None])
        _, directions = np.linalg.eigh(spread.astype(np.float64))
        states = states @ directions[:, ::-1][:, : self.num_features].astype(np.float32)
        learnt = np.zeros((len(sums["counts"]), states.shape[1]), np.float32)
        learnt[seen] = scale_features(states, counts)
        if self.features is None:
            return learnt
        self.check(len(learnt))
        return np.concatenate([learnt, self.features], axis=1)


def _compute_deviations(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return by how much the mean state of each word differs from that of all, `(V, H)`."""
    counts = counts.astype(np.float32)[:, None]
    mean = sums.sum(axis=0, dtype=np.float64) / max(counts.sum(dtype=np.float64), 1.0)
    deviations = sums - counts * mean.astype(np.float32)
    deviations /= counts + _SHRINKAGE
    return deviations


def _number_alike(new: Allocation, old: Allocation, counts: np.ndarray) -> Allocation:
    """Return `new` with its rows and columns numbered to keep the most occurrences in place."""
    numbers = []
    for old_groups, new_groups, size in (
        (old.rows, new.rows, old.num_rows),
        (old.columns, new.columns, old.num_columns),
    ):
        # One more each, so that words that never occurred count a little.
        shared = sparse.coo_matrix((counts + 1.0, (new_groups, old_groups)), shape=(size, size))
        _, number = linear_sum_assignment(shared.toarray(), maximize=True)
        numbers.append(number)
    rows, columns = numbers
    return Allocation(
        rows[new.rows] * old.num_columns + columns[new.columns], old.num_rows, old.num_columns
    )
