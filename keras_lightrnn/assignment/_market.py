"""The cells with their prices, as the solvers see them that work with prices."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from keras_lightrnn.assignment import _kernels
from keras_lightrnn.assignment.problem import AssignmentProblem
from keras_lightrnn.assignment.solver import SolverRun

_FREE, _DUMMY = -1, -2  # owners of a cell that are not words


class Market:
    """Prices, owners and candidates of the cells during one `solve`.

    Words to which all cells are alike (those that never occurred) would bid against each
    other in steps of epsilon. They count as dummies and are seated where dummies are.

    Inside, costs become benefits: negated, less the best of each word, and scaled to
    at most 1 or so, so that float32 neither overflows nor wastes its digits on constants.
    """

    def __init__(self, run: SolverRun, max_block_bytes: int) -> None:
        problem = run.problem
        num_words, num_cells = problem.vocabulary_size, problem.num_cells
        self.run = run
        self.scale = _compute_scale(problem)
        self.prices = np.zeros(problem.shape) if run.prices is None else run.prices * self.scale
        self.row_floors = np.empty(problem.num_rows)
        self.column_prices = np.empty(problem.num_columns)
        self.cells_of_words = run.allocation.cells.copy()
        self.owners = run.allocation.words.ravel().copy()
        self.owners[self.owners < 0] = _DUMMY
        self.num_dummies = num_cells - num_words
        self.is_indifferent = np.zeros(num_words, bool)
        shape = (num_words, _kernels.CANDIDATES)
        self.cells = np.full(shape, -1, np.int32)
        self.benefits = np.empty(shape)
        self.outside = np.empty(num_words)
        self.queue = np.empty(num_words, np.int64)
        self.stale = np.empty(num_words, np.int64)
        self.num_threads = numba.get_num_threads()
        self.is_measured = False
        self.shift = self.mean_cost = self.slack = 0.0
        self.blocks: tuple[np.ndarray, np.ndarray] | None = None
        if 4 * num_words * sum(problem.shape) <= max_block_bytes:
            self.blocks = (
                np.empty((num_words, problem.num_rows), np.float32),
                np.empty((num_words, problem.num_columns), np.float32),
            )

    def compute_gain(self) -> float:
        """Return what a random allocation costs above the bound, in nats."""
        return self.mean_cost - self.run.dual_bound

    def scan_all(self) -> None:
        """Scan every word at the present prices; offer the bound that they prove."""
        run, problem = self.run, self.run.problem
        self.prices -= self.prices.min()
        _kernels.compute_floors(self.prices, self.row_floors, self.column_prices)
        first, self.is_measured = not self.is_measured, True
        for block in problem.iterate_blocks():
            if self.blocks is None or first:
                rows, columns = self._make_benefits(block, first)
                if self.blocks is not None:
                    self.blocks[0][block], self.blocks[1][block] = rows, columns
            else:
                rows, columns = self.blocks[0][block], self.blocks[1][block]
            words = block.start + np.flatnonzero(~self.is_indifferent[block])
            self._scan(words, words - block.start, rows, columns)
            run.report(self.num_unassigned)
        if first:
            self.owners[self.cells_of_words[self.is_indifferent]] = _DUMMY
            self.num_dummies += int(np.count_nonzero(self.is_indifferent))
        best = self.benefits[:, 0] - self.prices.ravel()[self.cells[:, 0]]
        best[self.is_indifferent] = 0.0
        self.best_profits = best
        dual = best.sum() + self.prices.sum() - self.num_dummies * self.prices.min()
        run.offer_bound(self.shift - float(dual) / self.scale - self.slack)
        run.prices = self.prices / self.scale

    @property
    def num_unassigned(self) -> int:
        return int(np.count_nonzero(self.cells_of_words < 0))

    def run_round(self, epsilon: float) -> None:
        """Assign all words so that none could profit by more than epsilon elsewhere."""
        flat_prices = self.prices.ravel()
        held = self.cells_of_words
        profits = self._compute_benefits_held() - flat_prices[held]
        leaving = np.flatnonzero((profits < self.best_profits - epsilon) & ~self.is_indifferent)
        self.owners[held[leaving]] = _FREE
        held[leaving] = -1
        dummies = np.flatnonzero(self.owners == _DUMMY)
        self.owners[dummies[flat_prices[dummies] > flat_prices.min() + epsilon]] = _FREE

        # All candidates are fresh, so the first bids need no scan.
        self.queue[: leaving.size] = leaving[::-1]
        num_stale = _kernels.place_bids(
            self.queue, leaving.size, self.stale, epsilon, self.prices, self.row_floors,
            self.column_prices, self.owners, held, self.cells, self.benefits, self.outside,
        )  # fmt: skip
        while True:
            num_stale = self._settle(num_stale, epsilon)
            num_missing = self.num_dummies - int(np.count_nonzero(self.owners == _DUMMY))
            if num_missing == 0:
                break
            num_stale = self._place_dummies(num_missing, epsilon)
        self._seat_indifferent()
        self.run.offer_allocation(held)

    def lower_prices(self) -> None:
        """Lower the price of every cell to what keeps its present owner from leaving.

        An auction only raises prices: a cell that has become too dear would be filled only
        when all others have risen as far. Scan again afterwards.
        """
        flat_prices = self.prices.ravel()
        profits = self._compute_benefits_held() - flat_prices[self.cells_of_words]
        excess = np.maximum(self.best_profits - profits, 0.0)
        excess[self.is_indifferent] = 0.0
        dummies = np.flatnonzero(self.owners == _DUMMY)
        flat_prices[dummies] = flat_prices.min()
        flat_prices[self.cells_of_words] -= excess

    def complete(self) -> None:
        """Put the words that a stopped round left over into free cells; offer the result."""
        problem = self.run.problem
        words = np.flatnonzero(self.cells_of_words < 0)
        taken = np.zeros(problem.num_cells, bool)
        taken[self.cells_of_words[(self.cells_of_words >= 0) & ~self.is_indifferent]] = True
        free = np.flatnonzero(~taken)
        size = 1000  # exact assignments of so many words at a time
        if words.size > 20 * size:  # too early for a good end, and it would take minutes
            self.cells_of_words[words] = free[: words.size]
            words = words[:0]
        for start in range(0, words.size, size):
            block = words[start : start + size]
            places = free[start : start + size] if words.size > size else free[: 10 * size]
            costs = (
                problem.compute_row_costs(block)[:, places // problem.num_columns]
                + problem.compute_column_costs(block)[:, places % problem.num_columns]
            )
            self.cells_of_words[block] = places[linear_sum_assignment(costs)[1]]
        self._seat_indifferent()
        self.run.offer_allocation(self.cells_of_words)
        self.run.prices = self.prices / self.scale

    def _seat_indifferent(self) -> None:
        """Leave indifferent words where they are, or give them any free cell."""
        taken = np.zeros(self.owners.size, bool)
        taken[self.cells_of_words[~self.is_indifferent]] = True
        words = np.flatnonzero(self.is_indifferent)
        moving = words[taken[self.cells_of_words[words]]]
        taken[self.cells_of_words[words]] = True
        self.cells_of_words[moving] = np.flatnonzero(~taken)[: moving.size]

    def _settle(self, num_stale: int, epsilon: float) -> int:
        batch_size = min(4096, max(64, self.stale.size // 128))
        state = (
            self.prices, self.row_floors, self.column_prices, self.owners, self.cells_of_words,
            self.cells, self.benefits, self.outside,
        )  # fmt: skip
        while num_stale:
            if self.blocks is not None:
                num_stale = _kernels.settle_words(
                    self.stale, num_stale, batch_size, 10_000, self.num_threads, epsilon,
                    *self.blocks, *state, self.queue,
                )  # fmt: skip
            else:
                num_batch = min(batch_size, num_stale)
                num_stale -= num_batch
                words = self.stale[num_stale : num_stale + num_batch].copy()
                rows, columns = self._make_benefits(words, False, np.float32)
                self._scan(words, np.arange(num_batch), rows, columns)
                self.queue[:num_batch] = words
                num_new = _kernels.place_bids(
                    self.queue, num_batch, self.stale[num_stale:], epsilon, *state
                )
                num_stale += num_new
            self.run.report(num_stale)
        return num_stale

    def _place_dummies(self, num_missing: int, epsilon: float) -> int:
        """Give the cheapest cells to dummies; return how many words that put out.

        Dummies are alike, so they bid as one: all of their cells rise to the price of
        the cheapest that they leave, instead of in steps of epsilon against each other.
        """
        flat_prices = self.prices.ravel()
        others = np.flatnonzero(self.owners != _DUMMY)
        order = np.argpartition(flat_prices[others], num_missing)
        level = flat_prices[others[order[num_missing]]]
        dummies = np.flatnonzero(self.owners == _DUMMY)
        flat_prices[dummies] = np.maximum(flat_prices[dummies], level)
        chosen = others[order[:num_missing]]
        flat_prices[chosen] = level + epsilon
        outbid = self.owners[chosen]
        outbid = outbid[outbid >= 0]
        self.cells_of_words[outbid] = -1
        self.owners[chosen] = _DUMMY
        _kernels.compute_floors(self.prices, self.row_floors, self.column_prices)
        self.stale[: outbid.size] = outbid
        return int(outbid.size)

    def _scan(
        self, words: np.ndarray, block_rows: np.ndarray, rows: np.ndarray, columns: np.ndarray
    ) -> None:
        arguments = (
            words, block_rows, rows, columns, self.prices, self.row_floors, self.column_prices,
            self.cells, self.benefits, self.outside,
        )  # fmt: skip
        if words.size < _kernels.PARALLEL_BATCH:
            _kernels.scan_few_words(*arguments)
        else:
            _kernels.scan_many_words(*arguments, self.num_threads)

    def _make_benefits(
        self, words: Any, measure: bool, dtype: Any = np.float64
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 benefits `(N, R)` and `(N, C)`; add to the sums if they are to measure."""
        problem = self.run.problem
        parts = []
        spread = np.zeros(1)
        for compute in (problem.compute_row_costs, problem.compute_column_costs):
            costs = compute(words, dtype)
            least = costs.min(axis=1, keepdims=True)
            if measure:
                self.shift += float(least.sum())
                self.mean_cost += float(costs.mean(axis=1).sum())
            costs -= least
            if measure:
                spread = spread + costs.max(axis=1)
            costs *= -self.scale
            parts.append(costs.astype(np.float32, copy=False))
        if measure:
            self.is_indifferent[words] = spread == 0
            # Rounding to float32 is off by half a unit in the last place at most; what
            # float64 arithmetic itself may have lost is taken generously.
            self.slack += float(spread.sum()) * 2.0**-24
            self.slack += 1e-14 * problem.compute_magnitude() * spread.size
        return parts[0], parts[1]

    def _compute_benefits_held(self) -> np.ndarray:
        problem = self.run.problem
        rows, columns = np.divmod(self.cells_of_words, problem.num_columns)
        held = np.empty(problem.vocabulary_size)
        for block in problem.iterate_blocks():
            if self.blocks is None:
                parts = self._make_benefits(block, False)
            else:
                parts = self.blocks[0][block], self.blocks[1][block]
            words = np.arange(block.stop - block.start)
            held[block] = parts[0][words, rows[block]].astype(np.float64)
            held[block] += parts[1][words, columns[block]]
        return held


def _compute_scale(problem: AssignmentProblem) -> float:
    """Return a power of two that brings the largest cost near 1."""
    magnitude = problem.compute_magnitude()
    return 1.0 if magnitude == 0 else float(2.0 ** -np.frexp(magnitude)[1])
