"""The default solver: an auction for the cells, with a bound on its gap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lightrnn._internal.checks import check_not_negative, check_size
from keras_lightrnn.assignment.solution import AssignmentStatus
from keras_lightrnn.assignment.solver import AssignmentSolver, OutOfTime, SolverRun

if TYPE_CHECKING:
    from keras_lightrnn.assignment._market import Market

# The first epsilon is the mean gain of a word, divided by this. Coarser rounds raise prices in
# steps that later rounds cannot use, and irregular prices are slow to scan.
_FIRST_DIVISOR = 2000.0

# It is also at most the mean gap of a word, divided by this, or it would undo a warm start.
_GAP_DIVISOR = 4.0

# How often initial prices are lowered as far as words stay in their cells.
_LOWERINGS = 5

# Epsilon falls by this factor from one round to the next.
_SCALING_FACTOR = 5.0

# A cold first round leaves one word in so many without an auction: the last few words cost as many
# bids as all others, and the next round revises their prices anyway.
_LEFT = 256

# Below this share of the largest cost, prices in float64 cannot distinguish two bids.
_LEAST_EPSILON = 1e-13


class AuctionSolver(AssignmentSolver):
    """Words bid for cells: near-exact at any size, with a bound on the gap.

    Every cell has a price. A word without a cell bids for the cell with the largest profit,
    benefit minus price. It raises the price by its lead over the second best cell plus epsilon and
    takes the cell; the previous owner bids again. When all words have cells, the cost is within
    `V * epsilon` of the optimum. Epsilon starts at a fraction of the mean gain of a word and falls
    by a constant factor from round to round, while prices stay (Bertsekas' epsilon scaling).

    The separable structure makes the auction fast. A row part plus a column part bounds the profit
    in cell `(i, j)`, so a scan reads the prices of a few rows and columns only. Each word remembers
    the best cells of its last scan, and most bids need no other. Many words are scanned at a time
    on all cores; words bid one after another.

    The prices are a dual solution. Each round begins with a scan of all words, which yields
    `dual_bound = -(sum of best profits + sum of prices)`. This bound holds for every allocation.
    Dummy words without cost hold the empty cells. The bound allows for the rounding of benefits to
    float32, and for costs below 1e-316, which count as zero.

    Three rules keep similar words from raising prices in steps of epsilon. Large groups of words
    with equal costs bid as one. A word that bids many times in a round takes larger steps. The
    first of several rounds places its last words without an auction.

    Prices of an earlier solution are adapted before the first round, which then starts with an
    epsilon near the gap of these prices. If a first round without prices reaches a smaller gap,
    they are dropped.

    One round has one value of epsilon. The result depends on the arguments only, not on the
    number of threads (`NUMBA_NUM_THREADS`, by default the cores of the process). Compilation takes
    some ten seconds, once on a machine. `solution.statistics` counts bids, scans of a word and
    looks at a price.

    Args:
        gap_tolerance: Float. The solver stops when the duality gap is at most this share of the
            possible gain, the mean cost of a random allocation minus the bound. Defaults to
            1e-5.
        max_block_bytes: Integer. If all benefits, `4 * V * (R + C)` bytes, fit into so many bytes,
            they are kept. Otherwise each scan computes them from the factors, in the precision of
            the factors, and memory is some 200 bytes a word. Defaults to 8 GiB.
        max_rounds: Integer, the largest number of rounds. Defaults to 50.
        time_limit_seconds: Positive float, or `None`.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> from keras_lightrnn.assignment import AssignmentProblem
    >>> generator = np.random.default_rng(0)
    >>> problem = AssignmentProblem.from_factors(
    ...     generator.random((90, 4)), generator.random((9, 4)),
    ...     generator.random((90, 4)), generator.random((10, 4)),
    ... )
    >>> solution = AuctionSolver().solve(problem)
    >>> str(solution.status)
    'optimal'
    >>> again = AuctionSolver().solve(problem, solution.allocation, prices=solution.prices)
    >>> again.num_rounds, again.primal_cost == solution.primal_cost
    (0, True)

    Reference:
        Bertsekas, "The auction algorithm: a distributed relaxation method for the
        assignment problem", Annals of Operations Research 14, 1988.
    """

    def __init__(
        self,
        gap_tolerance: float = 1e-5,
        max_block_bytes: int = 2**33,
        max_rounds: int = 50,
        time_limit_seconds: float | None = None,
    ) -> None:
        super().__init__(time_limit_seconds)
        if not 0 <= gap_tolerance < 1:
            raise ValueError(
                f"`gap_tolerance` must lie in [0, 1). Received: gap_tolerance={gap_tolerance}."
            )
        check_size("max_rounds", max_rounds)
        self.gap_tolerance = gap_tolerance
        self.max_block_bytes = check_not_negative("max_block_bytes", max_block_bytes)
        self.max_rounds = max_rounds

    def improve(self, run: SolverRun) -> tuple[AssignmentStatus, str]:
        from keras_lightrnn.assignment._market import Market  # late, because it imports Numba

        is_warm = run.initial_prices is not None
        run.prices = run.initial_prices
        market = Market(run, self.max_block_bytes, run.initial_prices)
        epsilon = np.inf
        while True:
            _scan(market)
            gap = run.primal_cost - run.dual_bound
            target = self.gap_tolerance * market.compute_gain()
            if gap <= target:
                return (
                    AssignmentStatus.OPTIMAL,
                    f"Within {self.gap_tolerance:g} of the gain, by the dual bound.",
                )
            if gap <= 2 * market.slack or epsilon <= _LEAST_EPSILON:
                return AssignmentStatus.CONVERGED, (
                    "The gap is as small as the rounding of the costs to float32, for which the "
                    "bound allows. A larger `gap_tolerance` can be met."
                )
            if run.num_rounds == self.max_rounds:
                return AssignmentStatus.ROUND_LIMIT, (
                    f"Stopped after max_rounds={self.max_rounds} rounds. Raise it, or solve again "
                    "from this allocation and its prices."
                )
            # With this epsilon a round ends within the target.
            share = market.scale / run.problem.num_cells
            least = 0.9 * target * share
            if np.isinf(epsilon):
                first = market.compute_gain() / _FIRST_DIVISOR
                if is_warm:
                    gap = self._adapt_prices(market, first)
                    is_warm = np.isfinite(gap)
                epsilon = max(min(first, gap / _GAP_DIVISOR) * share, least)
            elif epsilon > least:
                epsilon = max(epsilon / _SCALING_FACTOR, least)
            else:
                epsilon /= _SCALING_FACTOR
            epsilon = max(epsilon, _LEAST_EPSILON)
            try:
                is_first = run.num_rounds == 0 and not is_warm
                market.run_round(epsilon, run.problem.vocabulary_size // _LEFT if is_first else 0)
            except (OutOfTime, KeyboardInterrupt):
                market.complete()
                raise
            run.num_rounds += 1

    def _adapt_prices(self, market: Market, first: float) -> float:
        """Adapt initial prices to the problem, or drop them; return the gap.

        The gap is infinite if they were dropped, because the bound does not describe the new
        auction then.
        """
        run = market.run
        for _ in range(_LOWERINGS):
            if run.primal_cost - run.dual_bound > first / 2:  # a first round does better
                market.cells.prices[:] = 0
                _scan(market)
                return np.inf
            market.lower_prices()
            _scan(market)
        return run.primal_cost - run.dual_bound

    def get_config(self) -> dict[str, Any]:
        return {
            "gap_tolerance": self.gap_tolerance,
            "max_block_bytes": self.max_block_bytes,
            "max_rounds": self.max_rounds,
            **super().get_config(),
        }


def _scan(market: Market) -> None:
    """Scan every word, and keep the prices that prove the bound."""
    market.scan_all()
    market.run.prices = market.get_prices()
