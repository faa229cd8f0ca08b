"""The default solver: an auction for the cells, with a certificate."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import check_not_negative, check_size
from keras_lightrnn.assignment._market import Market
from keras_lightrnn.assignment.solver import AssignmentSolver, OutOfTime, SolverRun

# The first epsilon is the mean gain a word, divided by this: coarser rounds raise prices in
# leaps that later ones cannot use and that make them irregular, hence slow to scan.
_FIRST_DIVISOR = 2000.0

# It is also at most the mean gap a word, divided by this, or it would undo a warm start.
_GAP_DIVISOR = 4.0

# How often prices given from outside are lowered to what keeps words where they are.
_LOWERINGS = 5

# Epsilon falls by this factor from one round to the next.
_SCALING_FACTOR = 5.0

# A cold first round leaves one word in so many over: the last few words cost as many bids as all
# the others, and what they pay would be revised in the next round anyway.
_LEFT = 256

# Below this share of the largest cost, prices in float64 could not tell two bids apart.
_LEAST_EPSILON = 1e-13


class AuctionSolver(AssignmentSolver):
    """Words bid for cells: near-exact at any size, with a bound that proves it.

    Every cell has a price. A word without a cell bids for the one with the best profit,
    benefit less price, raises its price by the lead over the second best plus epsilon, and
    takes it; who had it bids anew. With all words placed the cost is within `V * epsilon`
    of the optimum. Epsilon starts at a fraction of the mean gain a word and falls by a constant
    factor from round to round, prices staying (Bertsekas' epsilon scaling).

    Only the separable structure makes it fast: the profit in cell `(i, j)` is bounded by a
    row part plus a column part, so that a bid reads the prices of a few rows and columns. And
    each word remembers its best cells of the last such scan, from which most bids are made.
    In large vocabularies many words at a time choose where to bid, on all cores; smaller ones use
    these for scans alone.

    The prices are a dual solution. Each round begins with a scan of all words that yields
    `dual_bound = -(sum of best profits + sum of prices)`, valid for every allocation; empty
    cells are counted as held by dummy words that cost nothing. Rounding of the float32
    benefits is accounted for in the bound, and so is that costs below 1e-316 count as zero.

    Words that would bid each other up in steps of epsilon are kept from it: words with equal costs,
    if they are many, bid as one; a word that bids again and again takes greater steps. And the
    first of several rounds places the last of its words without an auction.

    Prices of an earlier solution are adapted before the first round, which then starts at
    an epsilon near the gap that they leave. When that gap is no better than what a first round
    reaches from no prices at all, they are dropped.

    One round is one value of epsilon. The result depends on the arguments only, not on the
    number of threads. Compilation (some ten seconds) happens once on a machine.
    `solution.statistics` counts bids, scans of a word and looks at a price.

    Args:
        gap_tolerance: Float, stop when the duality gap is at most this share of what there
            is to gain, the mean cost of a random allocation less the bound. Defaults to
            1e-5.
        max_block_bytes: Integer. Benefits are kept, `4 * V * (R + C)` bytes, if they
            fit into so many bytes; otherwise they are formed from the factors again when a
            word is scanned, in the factors' precision, and a word takes some 200 bytes whatever
            the size of the table. Defaults to 8 GiB.
        max_rounds: Integer, the most rounds. Defaults to 50.
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
    >>> solution.status
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

    def improve(self, run: SolverRun) -> tuple[str, str]:
        is_warm = run.initial_prices is not None
        run.prices = run.initial_prices
        market = Market(run, self.max_block_bytes, run.initial_prices)
        epsilon = np.inf
        while True:
            _scan(market)
            gap = run.primal_cost - run.dual_bound
            target = self.gap_tolerance * market.compute_gain()
            if gap <= target:
                return "optimal", f"Within {self.gap_tolerance:g} of the gain, by the dual bound."
            if gap <= 2 * market.slack or epsilon <= _LEAST_EPSILON:
                return "converged", (
                    "The gap is down to the rounding of the costs to float32, which the bound "
                    "allows for. Raise `gap_tolerance` to be told that it is met."
                )
            if run.num_rounds == self.max_rounds:
                return "round_limit", (
                    f"Stopped after max_rounds={self.max_rounds} rounds. Raise it, or solve again "
                    "from this allocation and its prices."
                )
            # With epsilon the target's share of a word the gap comes out within the target.
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
        """Fit prices from outside to the problem, or drop them; return the gap.

        The gap is infinite if they were dropped: what the bound already proves says nothing of
        how near the auction is that begins anew.
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
    """Scan every word, and keep the prices at which the bound was proved."""
    market.scan_all()
    market.run.prices = market.get_prices()
