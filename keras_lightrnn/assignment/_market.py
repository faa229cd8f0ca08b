"""Cells with prices, and the words that bid for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from keras_lightrnn._internal.threads import map_slices
from keras_lightrnn.assignment import _kernels
from keras_lightrnn.assignment._benefits import Benefits
from keras_lightrnn.assignment._kernels import CANDIDATES, FREE, Bidders, Cells, Offers
from keras_lightrnn.assignment.problem import AssignmentProblem
from keras_lightrnn.assignment.solver import SolverRun

# A word whose scaled benefits differ by less has no preference; float64 is no more precise.
_LEAST_BENEFIT = 1e-15

# Words that a thread scans at a time.
_SCAN_SLICE = 256


@dataclasses.dataclass
class Group:
    """Words with equal costs. They bid as one, so that they do not raise each other's prices.

    Attributes:
        words: `(N,)`, their ids.
        num_cells: Integer, the number of cells that they need.
        owner: Integer, their mark in `Cells.owners`.
        benefits: `(R, 1)` and `(1, C)` float64, the benefits of each of them.
    """

    words: np.ndarray
    num_cells: int
    owner: int
    benefits: tuple[np.ndarray, np.ndarray]


class Market:
    """Prices, owners and candidates during one `solve`.

    Many words with equal costs form a `Group`. The first group holds the words without preference
    (those that never occurred) and the empty cells.

    Costs become `Benefits`, scaled to at most about 1.
    """

    def __init__(
        self, run: SolverRun, max_block_bytes: int, prices: np.ndarray | None = None
    ) -> None:
        problem = run.problem
        num_words = problem.vocabulary_size
        self.run = run
        exponent = _compute_exponent(problem)
        self.scale = 2.0**exponent
        owners = run.allocation.words.ravel().astype(np.int64)
        prices = np.zeros(problem.shape) if prices is None else prices * self.scale
        self.cells = Cells(
            prices, np.empty(problem.num_rows), np.empty(problem.num_columns), owners
        )
        keep = 4 * num_words * sum(problem.shape) <= max_block_bytes
        self.row_side = Benefits(*problem.factors[:2], exponent, keep)
        self.column_side = Benefits(*problem.factors[2:], exponent, keep)
        self.mean_cost = self.row_side.mean_cost + self.column_side.mean_cost
        rounding = self.row_side.compute_rounding() + self.column_side.compute_rounding()
        # A generous allowance for float64 arithmetic and idle words. It is relative to the scale,
        # because such a share of the smallest possible costs would be zero in float64.
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
        self.groups: list[Group] = []
        self.is_alone = np.ones(num_words, bool)
        self.offers = _make_offers(min(4096, max(64, num_words // 128)))

    def compute_gain(self) -> float:
        """Return the mean cost of a random allocation minus the bound, in nats."""
        return self.mean_cost - self.run.dual_bound

    def get_prices(self) -> np.ndarray:
        """Return the present prices in nats, `(R, C)`."""
        return self.cells.prices / self.scale

    def scan_all(self) -> None:
        """Scan every word at the present prices; offer the bound that follows."""
        run, prices = self.run, self.cells.prices
        prices -= prices.min()
        _kernels.compute_floors(self.cells)
        if not self.groups:
            self._form_groups()
        best = self.best_profits
        for block in run.problem.iterate_blocks():
            words = block.start + np.flatnonzero(self.is_alone[block])
            offers = _make_offers(words)
            num_looks = self._scan(
                words - block.start, self.row_side.get(block), self.column_side.get(block), offers
            )
            self.bidders.counters[_kernels.SCANS] += words.size
            self.bidders.counters[_kernels.LOOKS] += num_looks
            best[words] = offers.profits
            run.check_time()
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
        """Assign all words so that none gains more than epsilon elsewhere.

        The last `num_left` words are put into the cells that remain.
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
            self.queue, leaving.size, self.stale, 0, epsilon, self.cells, self.bidders
        )
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
        """Lower the price of every cell as far as its owner still prefers it.

        An auction only raises prices: an overpriced cell would be filled only when all other
        prices have risen as far. Scan again afterwards.
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
        """Put the words without a cell into free cells; offer the result."""
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
        size = 1000  # words of one exact assignment
        if words.size > 64 * size:  # far from done, and exact assignments would take minutes
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
        """Find groups of words with equal costs."""
        problem = self.run.problem
        for block in problem.iterate_blocks():
            for side in (self.row_side, self.column_side):
                side.fill(block)
            self.run.check_time()
        is_idle = self.row_side.largest + self.column_side.largest <= _LEAST_BENEFIT
        idle = _make_idle(problem.num_cells - problem.vocabulary_size, np.flatnonzero(is_idle))
        self.groups.append(idle)
        self.cells.owners[self.cells.owners < 0] = idle.owner
        # Each bid of a group reads all cells, which does not pay for smaller groups.
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
        """Take the best cells for the words of a group that have none; return how many are outbid.

        The prices of all cells of the group rise until the best other cell is as good, instead of
        in steps of epsilon.
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
        """Give the words of a group open cells, preferably their present ones."""
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
        """Scan and bid until all words outside groups but `num_left` have cells."""
        while num_stale > num_left:
            num_batch = min(self.offers.words.size, num_stale)
            if self.row_side.kept is not None and num_batch < _kernels.PARALLEL_BATCH:
                num_stale = _kernels.settle_words(
                    10_000, num_left, self.stale, num_stale, epsilon,
                    self.row_side.kept, self.column_side.kept,
                    self.cells, self.bidders, self.offers, self.queue,
                )  # fmt: skip
            else:
                num_stale = _kernels.begin_batch(
                    num_batch, self.stale, num_stale, self.cells, self.bidders, self.offers
                )
                num_looks = self._scan_batch(_kernels.take_offers(self.offers, 0, num_batch))
                num_stale = _kernels.end_batch(
                    num_batch, num_looks, self.stale, num_stale, epsilon,
                    self.cells, self.bidders, self.offers, self.queue,
                )  # fmt: skip
            self.run.check_time()

    def _scan_batch(self, offers: Offers) -> int:
        """Find the candidates and the offers of words; return the number of looks."""
        words = offers.words
        if self.row_side.kept is not None and self.column_side.kept is not None:
            return self._scan(words, self.row_side.kept, self.column_side.kept, offers)
        rows, columns = self.row_side.get(words), self.column_side.get(words)
        return self._scan(np.arange(words.size), rows, columns, offers)

    def _scan(
        self, block_rows: np.ndarray, rows: np.ndarray, columns: np.ndarray, offers: Offers
    ) -> int:
        """Do what `_kernels.scan_words` does, on several threads if the words are many."""

        def scan(part: slice) -> int:
            some = _kernels.take_offers(offers, part.start, part.stop)
            return int(
                _kernels.scan_words(block_rows[part], rows, columns, self.cells, self.bidders, some)
            )

        size = offers.words.size
        slice_size = _SCAN_SLICE if size >= _kernels.PARALLEL_BATCH else max(size, 1)
        return sum(map_slices(scan, size, slice_size))

    def _compute_benefits_held(self) -> np.ndarray:
        rows, columns = np.divmod(self.bidders.cells, self.run.problem.num_columns)
        return self.row_side.compute_chosen(rows) + self.column_side.compute_chosen(columns)


def _make_offers(words: Any) -> Offers:
    """Return empty offers of some words, or of so many."""
    words = np.empty(words, np.int64) if np.isscalar(words) else words
    return Offers(words, np.empty(words.size, np.int64), *np.empty((2, words.size)))


def _make_idle(num_empty: int, words: Any = ()) -> Group:
    """Return the group of words without preference and of empty cells."""
    words = np.asarray(words, np.int64)
    return Group(words, words.size + num_empty, FREE - 1, (np.zeros((1, 1)), np.zeros((1, 1))))


def _compute_exponent(problem: AssignmentProblem) -> int:
    """Return the power of two that brings the largest cost near 1."""
    magnitude = problem.compute_magnitude()
    # The smallest costs stay below 1; costs below 1e-316 count as zero.
    return 0 if magnitude == 0 else min(-int(np.frexp(magnitude)[1]), 1000)
