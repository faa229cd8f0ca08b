"""Fast greedy allocations without a guarantee."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import check_not_negative
from keras_lightrnn.assignment.solution import AssignmentStatus
from keras_lightrnn.assignment.solver import AssignmentSolver, SolverRun

_METHODS = ("regret", "matching")

# The price of a taken cell. Scaled benefits differ by at most 4.
_TAKEN = 16.0


class GreedySolver(AssignmentSolver):
    """Each word takes the cheapest cell left, in the order of regret or weight.

    `method="regret"` chooses rows, then columns. In the order of falling regret (second lowest
    cost minus lowest cost) every word takes its cheapest row with a free cell. Then every word
    takes its cheapest free column of that row in the same way. The method needs two passes over the
    costs and little memory. It ignores columns while it chooses rows.

    `method="matching"` repeatedly matches the word and the free cell with the largest weight. The
    weight of a pair is the cost of the word's most expensive cell minus the cost of the pair.
    This is the half-approximate weighted matching of the LightRNN paper: its total weight is at
    least half of the maximum. The method keeps the costs in memory, `4 * V * (R + C)` bytes.

    The bound of both methods puts every word into its cheapest cell.

    Args:
        method: `"regret"` or `"matching"`. Defaults to `"regret"`.
        max_block_bytes: Integer, the largest memory for the costs of `"matching"`, in bytes.
            Defaults to 8 GiB.
        time_limit_seconds: Positive float, or `None`. If the limit passes before every word has a
            cell, the solver returns the initial allocation, and its message says so.

    Raises:
        ValueError: if the method is unknown; from `solve`, if `"matching"` needs more memory
            than `max_block_bytes`.

    Example:

    >>> from keras_lightrnn.assignment import AssignmentProblem
    >>> problem = AssignmentProblem.from_costs([[0, 9], [0, 1], [0, 2]], [[3, 0], [0, 4], [2, 0]])
    >>> GreedySolver().solve(problem).allocation.words.tolist()
    [[2, 0], [1, -1]]
    >>> GreedySolver("matching").solve(problem).allocation.words.tolist()
    [[1, 0], [-1, 2]]

    Reference:
        Li et al., "LightRNN: Memory and Computation-Efficient Recurrent Neural
        Networks", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893),
        section 3.3.
    """

    def __init__(
        self,
        method: str = "regret",
        max_block_bytes: int = 2**33,
        time_limit_seconds: float | None = None,
    ) -> None:
        super().__init__(time_limit_seconds)
        if method not in _METHODS:
            raise ValueError(f"`method` must be one of {_METHODS}. Received: method={method!r}.")
        self.method = method
        self.max_block_bytes = check_not_negative("max_block_bytes", max_block_bytes)

    early_stop_returns = "the initial allocation"

    def improve(self, run: SolverRun) -> tuple[AssignmentStatus, str]:
        if self.method == "regret":
            run.offer_allocation(_choose_by_regret(run))
        else:
            run.offer_allocation(self._match(run))
        run.num_rounds = 1
        return (
            AssignmentStatus.CONVERGED,
            "Every word has a cell. `AuctionSolver` reaches a lower cost.",
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "max_block_bytes": self.max_block_bytes,
            **super().get_config(),
        }

    def _match(self, run: SolverRun) -> np.ndarray:
        # Imported late, because the kernels import Numba.
        from keras_lightrnn.assignment import _kernels
        from keras_lightrnn.assignment._market import Market

        problem = run.problem
        market = Market(run, self.max_block_bytes)
        rows, columns = market.row_side.kept, market.column_side.kept
        if rows is None or columns is None:
            raise ValueError(
                "`method='matching'` keeps all costs in memory, and they must fit into "
                f"`max_block_bytes`. Received: max_block_bytes={self.max_block_bytes} for "
                f"{problem!r}. Raise it, or use `method='regret'` or `AuctionSolver`."
            )
        market.scan_all()
        spans = -(rows.min(axis=1).astype(np.float64) + columns.min(axis=1))
        keys = -(spans + market.best_profits)
        heap = _kernels.make_heap(keys)
        while len(heap):
            _kernels.match_greedily(
                heap, 20_000, _TAKEN, spans, rows, columns, market.cells, market.bidders
            )
            run.check_time()
        return market.bidders.cells


def _choose_by_regret(run: SolverRun) -> np.ndarray:
    problem = run.problem
    all_words = np.zeros(problem.vocabulary_size, np.int64)
    room = np.full((1, problem.num_rows), problem.num_columns, np.int64)
    rows, least_row_cost = _choose(run, problem.compute_row_costs, all_words, room)
    room = np.ones(problem.shape, np.int64)
    columns, least_column_cost = _choose(run, problem.compute_column_costs, rows, room)
    run.offer_bound(least_row_cost + least_column_cost)
    return rows * problem.num_columns + columns


def _choose(
    run: SolverRun,
    compute_costs: Callable[..., np.ndarray],
    groups: np.ndarray,
    room: np.ndarray,
) -> tuple[np.ndarray, float]:
    """Let words choose a place in the order of falling regret.

    Returns:
        The place of every word, and the sum of the lowest costs of all words.
    """
    from keras_lightrnn.assignment import _kernels  # late, because it imports Numba

    least, regrets = np.empty((2, groups.size))
    for block in run.problem.iterate_blocks():
        _kernels.find_regrets(compute_costs(block), least[block], regrets[block])
        run.check_time()
    order = np.argsort(-regrets, kind="stable")
    chosen = np.empty(groups.size, np.int64)
    dtype = run.problem.factors[0].dtype  # the costs are no more precise than the factors
    if run.problem.compute_magnitude() > float(np.finfo(dtype).max):
        dtype = np.dtype(np.float64)
    for block in run.problem.iterate_blocks():
        words = order[block]
        places = np.empty(words.size, np.int64)
        _kernels.choose_greedily(compute_costs(words, dtype), groups[words], room, places)
        chosen[words] = places
        run.check_time()
    return chosen, float(least.sum())
