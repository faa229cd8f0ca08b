"""Objective of the paper: put each word where the current network predicts it best."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_lightrnn import assignment
from keras_lightrnn.reallocation.objective import (
    OutputWeights,
    Proposal,
    ProposalStatus,
    ReallocationObjective,
    check_sums,
)
from keras_lightrnn.table.allocation import Allocation


class LikelihoodObjective(ReallocationObjective):
    """Negative log-likelihood of the corpus, with network and hidden states kept fixed.

    Let `H_w` be the sum of the column half-steps before the occurrences of word `w`, `G_w` the sum
    of the row half-steps, and `n_w` the number of occurrences. In row `i` the word costs
    `-(H_w · row_kernel_i + n_w row_bias_i)`, up to a constant of the word, and likewise
    in each column. Minimizing the total is an assignment problem. Word biases and word vectors move
    with their word and add the same to every cell.

    Of a mixture, the sums are those of expectation maximisation: states are weighted by the
    shares of the components in each word, so that the total bounds the loss of the mixture. With
    several tables, the shares are those of the table whose words move, and the others are fixed.

    The objective ignores that a word that moves reads other input vectors, which changes every
    later state. On Penn Treebank, rounds by this objective improve a random table and make a good
    one worse; see `SimilarityObjective`.

    Args:
        solver: A solver or name that `keras_lightrnn.assignment.get` accepts: `"alternating"`
            (default), `"auction"` for a certified gap near zero, or `"exact"` for small
            vocabularies.

    Example:

    >>> sums = {"column_sums": np.array([[0.0], [2.0]]), "row_sums": np.zeros((2, 1)),
    ...         "counts": np.ones(2)}
    >>> weights = OutputWeights(np.array([[5.0], [0.0]]), None, np.zeros((1, 1)), None)
    >>> proposal = LikelihoodObjective("exact").propose(sums, weights, Allocation([0, 1], 2, 1))
    >>> proposal.allocation.rows.tolist(), proposal.cost_before, proposal.cost
    ([1, 0], 0.0, -5.0)

    Reference:
        Li et al., "LightRNN", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893),
        section 3.2.
    """

    unit = "nats/word"
    sums = ("column_sums", "row_sums")
    carries_output = False

    def __init__(self, solver: Any = "alternating") -> None:
        self.solver = assignment.get(solver)

    def propose(
        self,
        sums: dict[str, np.ndarray],
        weights: OutputWeights,
        allocation: Allocation,
        prices: np.ndarray | None = None,
    ) -> Proposal:
        check_sums(sums)
        counts = sums["counts"]
        sides = []
        for values, kernel, bias in (
            (sums["column_sums"], weights.row_kernel, weights.row_bias),
            (sums["row_sums"], weights.column_kernel, weights.column_bias),
        ):
            if bias is not None:
                values = np.concatenate([values, counts[:, None]], axis=1)
                kernel = np.concatenate([kernel, bias[:, None]], axis=1)
            sides += [values, kernel]
        problem = assignment.AssignmentProblem.from_factors(*sides)
        solution = self.solver.solve(problem, initial=allocation, prices=prices)
        num_words = float(counts.sum(dtype=np.float64))
        return Proposal(
            solution.allocation,
            cost_before=problem.compute_cost(allocation) / num_words,
            cost=solution.primal_cost / num_words,
            gap=solution.duality_gap / num_words,
            status=ProposalStatus(solution.status),
            prices=solution.prices,
        )
