"""Objective by which words share vectors with words that the network treats alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from keras_lightrnn import assignment
from keras_lightrnn._internal.checks import check_size
from keras_lightrnn.clustering.two_way import cluster_features, exchange_words
from keras_lightrnn.clustering.vectors import (
    check_features,
    compute_cluster_error,
    compute_energy,
    scale_features,
)
from keras_lightrnn.reallocation.objective import (
    OutputWeights,
    Proposal,
    ProposalStatus,
    ReallocationObjective,
    check_sums,
)
from keras_lightrnn.table.allocation import Allocation

# A mean over n occurrences keeps n / (n + _SHRINKAGE) of its distance from the mean of all words.
_SHRINKAGE = 5.0

# In a large vocabulary, words that were counted less often stay in place.
_LEAST_COUNT = 2
# A vocabulary of more words is large.
_LARGE = 20_000
# All words are clustered from scratch if the table leaves more than this share of the error that a
# random table leaves.
_POOR = 0.6
# A good table is improved until a round lowers its error by no more than this share.
_TOLERANCE = 5e-3


class SimilarityObjective(ReallocationObjective):
    """Squared distance of learnt word features from the sum of a row and a column vector.

    The features of a word are the mean hidden state before its occurrences and the mean state after
    them, reduced to `num_features` principal components and scaled to the length `log(1 + n_w)`.
    Words are clustered by them as `Allocation.from_cooccurrence` clusters by neighbours,

        sum over words w of |features_w - row_vector[row(w)] - column_vector[column(w)]|**2,

    starting from the current table. One or two rounds are made, because the first gains most. A
    table that leaves more than 60 % of the error of a random one says almost nothing about the
    features: then words are clustered from scratch, and rows and columns are numbered so that as
    many occurrences as possible stay in place. The cost is the error as a share of the error that
    one vector for all words would leave.

    Clustering more than 20,000 words would take minutes, and most of them are rare. There, words
    that occurred at least twice since the sums began (with rounds after epochs: in the epoch)
    exchange their cells within blocks of the table; too little is known about rarer ones. In a poor
    table all words are clustered again.

    Words that move take their shares of input and output vectors along: a vector becomes the mean,
    weighted by counts, of the vectors of its new words. So a round raises perplexity at first, and
    later training more than makes up for it. Rounds are worth it early, in a training that
    continues: a good table of 249,022 words is better for a round after the first of eight epochs,
    and worse after the first of three (see `docs/results/reallocation.md`).

    In a model with several tables, the states are those by which the table of the round predicts,
    and words are compared by them alone, whatever the other tables say about these words.

    Args:
        features: `(V, F)`, further features of the words, such as those that
            `keras_lightrnn.clustering.compute_word_features` returns, or `None`. They are
            concatenated to the learnt features without scaling.
        num_features: Integer, number of principal components.
        num_rounds: Integer, the largest number of clustering rounds.
        solver: A solver or name that `keras_lightrnn.assignment.get` accepts; `None` (default) for
            the procedure above.

    Raises:
        ValueError: if `features` is not a finite matrix or an argument is out of range.

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
        self.features = None if features is None else check_features(features)
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
        spread = compute_energy(features - features.mean(axis=0))
        total = max(spread, float(np.finfo(np.float32).tiny))
        error_before = compute_cluster_error(features, allocation)
        # By chance, each vector explains an equal share of the variance.
        share_by_chance = 1 - (sum(allocation.shape) - 1) / len(features)
        is_poor = error_before > _POOR * share_by_chance * total
        found = self._cluster(features, allocation, sums["counts"], is_poor)
        error = compute_cluster_error(features, found)
        if error >= error_before:
            return Proposal(
                allocation, error_before / total, error_before / total, None, ProposalStatus.KEPT
            )
        return Proposal(found, error_before / total, error / total, None, ProposalStatus.CLUSTERED)

    def _cluster(
        self, features: np.ndarray, allocation: Allocation, counts: np.ndarray, is_poor: bool
    ) -> Allocation:
        """Improve the allocation, or make a new one if it is poor."""
        shape = allocation.shape
        is_large = self.solver is None and len(features) > _LARGE
        options: Any = {"num_rounds": self.num_rounds}
        if is_large and not is_poor:
            return exchange_words(features, allocation, counts >= _LEAST_COUNT, **options)
        if is_poor:
            found = cluster_features(features, *shape, solver=self.solver, **options)
        else:
            options.update(initial=allocation, tolerance=_TOLERANCE, solver=self.solver)
            return cluster_features(features, *shape, **options)
        return _number_alike(found, allocation, counts)

    def compute_features(self, sums: dict[str, np.ndarray]) -> np.ndarray:
        """Return the features of the words, `(V, F)` float32; see `propose` for `sums`."""
        seen = np.flatnonzero(sums["counts"])  # nothing has been learnt about the others
        counts = sums["counts"][seen].astype(np.float32)
        parts = [
            _compute_deviations(sums["column_sums"][seen], counts),
            _compute_deviations(sums["following_sums"][seen], sums["following_counts"][seen]),
        ]
        # Both sides get equal weight, whatever the scale of the states.
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
    """Return the differences of the words' mean states from the mean of all, `(V, H)`."""
    counts = counts.astype(np.float32)[:, None]
    mean = sums.sum(axis=0, dtype=np.float64) / max(counts.sum(dtype=np.float64), 1.0)
    deviations = sums - counts * mean.astype(np.float32)
    deviations /= counts + _SHRINKAGE
    return deviations


def _number_alike(new: Allocation, old: Allocation, counts: np.ndarray) -> Allocation:
    """Return `new` with rows and columns numbered so that most occurrences stay in place."""
    numbers = []
    for old_groups, new_groups, size in (
        (old.rows, new.rows, old.num_rows),
        (old.columns, new.columns, old.num_columns),
    ):
        # Plus 1, so that words that never occurred count a little.
        shared = sparse.coo_matrix((counts + 1.0, (new_groups, old_groups)), shape=(size, size))
        _, number = linear_sum_assignment(shared.toarray(), maximize=True)
        numbers.append(number)
    rows, columns = numbers
    return Allocation(
        rows[new.rows] * old.num_columns + columns[new.columns], old.num_rows, old.num_columns
    )
