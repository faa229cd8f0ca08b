"""The cells with their prices, as the solvers see them that work with prices."""

from __future__ import annotations

import dataclasses
from typing import Any

import numba
import numpy as np
from scipy.optimize import linear_sum_assignment

from keras_lightrnn.assignment import _kernels
from keras_lightrnn.assignment._benefits import Benefits
from keras_lightrnn.assignment._kernels import CANDIDATES, FREE, Bidders, Cells, Offers
from keras_lightrnn.assignment.problem import AssignmentProblem
from keras_lightrnn.assignment.solver import SolverRun

# Words whose scaled benefits differ by less are indifferent; float64 itself is no more precise.
_LEAST_BENEFIT = 1e-15


# Words that decide on their bids at the same prices, on several threads. Smaller vocabularies bid
# one after another: so many at a time would too often be after the same cell.
_BID_BATCH = 1024


@dataclasses.dataclass
class Group:
    """Words with equal costs. They bid as one, for otherwise they would bid each other up.

    Attributes:
        words: their ids.
        num_cells: how many cells they need.
        owner: what stands for them in `Cells.owners`.
        benefits: `(R, 1)` and `(1, C)` float64, of every one of them.
    """

    words: np.ndarray
    num_cells: int
    owner: int
    benefits: tuple[np.ndarray, np.ndarray]


class Market:
    """Prices, owners and candidates during one `solve`.

    Words with equal costs that are many form a `Group`. The first group is that of the words to
    which all cells are alike (those that never occurred), and of the cells left empty.

    Inside, costs become `Benefits`, scaled to at most 1 or so.
    """

    def __init__(
        self, run: SolverRun, max_block_bytes: int, prices: np.ndarray | None = None
    ) -> None:
        problem = run.problem
        num_words = problem.vocabulary_size
        self.run = run
        self.scale = _compute_scale(problem)
        owners = run.allocation.words.ravel().astype(np.int64)
        prices = np.zeros(problem.shape) if prices is None else prices * self.scale
        self.cells = Cells(
            prices, np.empty(problem.num_rows), np.empty(problem.num_columns), owners
        )
        keep = 4 * num_words * sum(problem.shape) <= max_block_bytes
        self.row_side = Benefits(*problem.factors[:2], self.scale, keep)
        self.column_side = Benefits(*problem.factors[2:], self.scale, keep)
        self.mean_cost = self.row_side.mean_cost + self.column_side.mean_cost
        rounding = self.row_side.compute_rounding() + self.column_side.compute_rounding()
        # What float64 arithmetic and idle words may have lost is taken generously, and from the
        # scale: of the least costs that there are, such a share would be nothing in float64.
        lost = 1e-14 * num_words if problem.compute_magnitude() else 0.0
        self.slack = (rounding + lost) / self.scale
        self.bidders = Bidders(
            run.allocation.cells.astype(np.int64),
            np.full((num_words, CANDIDATES), -1, np.int32),
            np.empty((num_words, CANDIDATES), np.float32),
            np.full(num_words, np.inf),
            np.zeros(num_words, np.int32),
            np.zeros(4, np.int64),
        )
        self.best_profits = np.empty(num_words)
        self.queue = np.empty(num_words, np.int64)
        self.stale = np.empty(num_words, np.int64)
        self.num_threads = numba.get_num_threads()
        self.groups: list[Group] = []
        self.is_alone = np.ones(num_words, bool)
        self.offers = _make_offers(min(4096, max(64, num_words // 128)))
        self.bid_batch_size = _BID_BATCH if num_words >= 128 * _BID_BATCH else num_words + 1

    def compute_gain(self) -> float:
        """Return what a random allocation costs above the bound, in nats."""
        return self.mean_cost - self.run.dual_bound

    @property
    def num_unassigned(self) -> int:
        return int(np.count_nonzero(self.bidders.cells < 0))

    def get_prices(self) -> np.ndarray:
        """Return the present prices in nats, `(R, C)`."""
        return self.cells.prices / self.scale

    def scan_all(self) -> None:
        """Scan every word at the present prices; offer the bound that they prove."""
        run, prices = self.run, self.cells.prices
        prices -= prices.min()
        _kernels.compute_floors(self.cells)
        if not self.groups:
            self._form_groups()
        best = self.best_profits
        for block in run.problem.iterate_blocks():
            words = block.start + np.flatnonzero(self.is_alone[block])
            offers = _make_offers(words)
            _kernels.scan_words(
                words - block.start, self.row_side.get(block), self.column_side.get(block),
                self.cells, self.bidders, offers, self.num_threads,
            )  # fmt: skip
            best[words] = offers.profits
            run.report(self.num_unassigned)
        best[~self.is_alone] = 0.0
        dual = best.sum() + prices.sum()
        for group in self.groups:
            profit = self._compute_profits(group).max()
            best[group.words] = profit
            dual += group.num_cells * profit
        run.offer_bound(self.mean_cost - float(dual) / self.scale - self.slack)
        counters = self.bidders.counters
        run.statistics = {
            "num_bids": int(counters[_kernels.BIDS]),
            "num_scans": int(counters[_kernels.SCANS]),
            "num_looks": int(counters[_kernels.LOOKS]),
        }

    def run_round(self, epsilon: float, num_left: int) -> None:
        """Assign all words so that none could profit by more than epsilon elsewhere.

        But for `num_left` of them, which are put into the cells that remain.
        """
        flat_prices = self.cells.prices.ravel()
        owners, held = self.cells.owners, self.bidders.cells
        profits = self._compute_benefits_held() - flat_prices[held]
        leaving = np.flatnonzero((profits < self.best_profits - epsilon) & self.is_alone)
        owners[held[leaving]] = FREE
        held[leaving] = -1
        for group in self.groups:
            profits = self._compute_profits(group)
            owners[(owners == group.owner) & (profits < profits.max() - epsilon)] = FREE

        self.bidders.bids[:] = 0
        # All candidates are fresh, so the first bids need no scan.
        self.queue[: leaving.size] = leaving[::-1]
        num_stale = _kernels.place_bids(
            self.queue, leaving.size, self.stale, 0, epsilon, self.bid_batch_size,
            self.cells, self.bidders, self.offers, self.num_threads,
        )  # fmt: skip
        is_settled = False
        while not is_settled:
            self._settle(num_stale, epsilon, num_left)
            is_settled = True
            for group in self.groups:
                num_missing = group.num_cells - int(np.count_nonzero(owners == group.owner))
                if num_missing:
                    num_stale = self._bid_as_one(group, num_missing, epsilon)
                    self._settle(num_stale, epsilon, num_left)
                    num_stale, is_settled = 0, False
        self.complete()

    def lower_prices(self) -> None:
        """Lower the price of every cell to what keeps its present owner from leaving.

        An auction only raises prices: a cell that has become too dear would be filled only
        when all others have risen as far. Scan again afterwards.
        """
        flat_prices = self.cells.prices.ravel()
        held = self.bidders.cells
        excess = np.zeros(flat_prices.size)
        profits = self._compute_benefits_held() - flat_prices[held]
        excess[held] = np.maximum(self.best_profits - profits, 0.0)
        for group in self.groups:
            profits = self._compute_profits(group)
            owned = self.cells.owners == group.owner
            excess[owned] = profits.max() - profits[owned]
        flat_prices -= excess

    def complete(self) -> None:
        """Put the words that a round left over into free cells; offer the result."""
        problem, held = self.run.problem, self.bidders.cells
        idle, *groups = self.groups
        for group in groups:
            self._seat(group, self.cells.owners == group.owner)
        is_idle = np.zeros(held.size, bool)
        is_idle[idle.words] = True
        words = np.flatnonzero((held < 0) & ~is_idle)
        alone = words[self.is_alone[words]]
        free = np.ones(problem.num_cells, bool)
        free[held[(held >= 0) & ~is_idle]] = False
        places = np.flatnonzero(free)
        size = 1000  # exact assignments of so many words at a time
        if words.size > 64 * size:  # too early for a good end, and it would take minutes
            held[words] = places[: words.size]
            words = words[:0]
        for start in range(0, words.size, size):
            block = words[start : start + size]
            some = places[start : start + size] if words.size > size else places[: 10 * size]
            costs = (
                problem.compute_row_costs(block)[:, some // problem.num_columns]
                + problem.compute_column_costs(block)[:, some % problem.num_columns]
            )
            held[block] = some[linear_sum_assignment(costs)[1]]
        self.cells.owners[held[alone]] = alone
        free[held[(held >= 0) & ~is_idle]] = False
        self._seat(idle, free)
        self.run.offer_allocation(held)
        self.run.prices = self.get_prices()

    def _form_groups(self) -> None:
        """Find the words that are alike."""
        problem = self.run.problem
        for block in problem.iterate_blocks():
            for side in (self.row_side, self.column_side):
                side.fill(block)
            self.run.report(self.num_unassigned)
        is_idle = self.row_side.largest + self.column_side.largest <= _LEAST_BENEFIT
        idle = _make_idle(problem.num_cells - problem.vocabulary_size, np.flatnonzero(is_idle))
        self.groups.append(idle)
        self.cells.owners[self.cells.owners < 0] = idle.owner
        # A smaller group is not worth a look at all cells for each of its bids.
        for words in problem.find_equal_words(max(problem.shape)):
            if not is_idle[words[0]]:
                rows, columns = self.row_side.get(words[:1]), self.column_side.get(words[:1])
                benefits = (rows.astype(np.float64).T, columns.astype(np.float64))
                owner = idle.owner - len(self.groups)
                self.groups.append(Group(words, words.size, owner, benefits))
        for group in self.groups:
            self.is_alone[group.words] = False
            self.cells.owners[self.bidders.cells[group.words]] = group.owner

    def _compute_profits(self, group: Group) -> np.ndarray:
        """Return the profit `(R * C,)` of a group in every cell."""
        rows, columns = group.benefits
        return (rows + columns - self.cells.prices).ravel()

    def _bid_as_one(self, group: Group, num_missing: int, epsilon: float) -> int:
        """Take the best cells that a group lacks; return how many words that put out.

        All of its cells rise to the price at which the best that it leaves is as good, instead
        of in steps of epsilon against each other.
        """
        flat_prices, owners = self.cells.prices.ravel(), self.cells.owners
        profits = self._compute_profits(group)
        own = np.flatnonzero(owners == group.owner)
        others = np.flatnonzero(owners != group.owner)
        last = min(num_missing, others.size - 1)
        order = np.argpartition(-profits[others], last)
        level = profits[others[order[last]]]
        chosen = others[order[:num_missing]]
        flat_prices[own] += np.maximum(profits[own] - level, 0)
        flat_prices[chosen] += profits[chosen] - level + epsilon
        outbid = owners[chosen]
        outbid = outbid[outbid >= 0]
        self.bidders.cells[outbid] = -1
        owners[chosen] = group.owner
        self.bidders.counters[_kernels.BIDS] += num_missing
        _kernels.compute_floors(self.cells)
        self.stale[: outbid.size] = outbid
        return int(outbid.size)

    def _seat(self, group: Group, is_open: np.ndarray) -> None:
        """Give the words of a group open cells, their present ones if they can; or else none."""
        held = self.bidders.cells
        here = held[group.words]
        stays = (here >= 0) & is_open[here]
        moving = group.words[~stays]
        is_left = is_open.copy()
        is_left[here[stays]] = False
        cells = np.flatnonzero(is_left)[: moving.size]
        held[moving] = -1
        held[moving[: cells.size]] = cells

    def _settle(self, num_stale: int, epsilon: float, num_left: int) -> None:
        """Scan and bid until all words that are alone, but for `num_left`, have cells."""
        while num_stale > num_left:
            if self.row_side.kept is not None:
                num_stale = _kernels.settle_words(
                    10_000, num_left, self.stale, num_stale, epsilon, self.bid_batch_size,
                    self.row_side.kept, self.column_side.kept,
                    self.cells, self.bidders, self.offers, self.queue, self.num_threads,
                )  # fmt: skip
            else:
                num_batch = min(self.offers.words.size, num_stale)
                num_stale -= num_batch
                words = self.stale[num_stale : num_stale + num_batch].copy()
                self.offers.words[:num_batch] = words
                num_stale = _kernels.settle_batch(
                    num_batch, np.arange(num_batch), self.stale, num_stale, epsilon,
                    self.bid_batch_size, self.row_side.get(words), self.column_side.get(words),
                    self.cells, self.bidders, self.offers, self.queue, self.num_threads,
                )  # fmt: skip
            self.run.report(num_stale)

    def _compute_benefits_held(self) -> np.ndarray:
        rows, columns = np.divmod(self.bidders.cells, self.run.problem.num_columns)
        return self.row_side.compute_chosen(rows) + self.column_side.compute_chosen(columns)


def _make_offers(words: Any) -> Offers:
    """Return room for what words offer, or for what so many offer."""
    words = np.empty(words, np.int64) if np.isscalar(words) else words
    return Offers(words, np.empty(words.size, np.int64), *np.empty((2, words.size)))


def _make_idle(num_empty: int, words: Any = ()) -> Group:
    """Return the group of those to which all cells are alike."""
    words = np.asarray(words, np.int64)
    return Group(words, words.size + num_empty, FREE - 1, (np.zeros((1, 1)), np.zeros((1, 1))))


def _compute_scale(problem: AssignmentProblem) -> float:
    """Return a power of two that brings the largest cost near 1."""
    magnitude = problem.compute_magnitude()
    # The least costs stay below 1, and below 1e-316 all cells are alike.
    return 1.0 if magnitude == 0 else float(2.0 ** min(-np.frexp(magnitude)[1], 1000))
