"""Compiled loops of the solvers that work with cell prices.

Here benefits are maximised: `a[i] + b[j]` is what a word gains in cell `(i, j)`, its
profit there is `a[i] + b[j] - prices[i, j]`. Benefits are float32 (half the memory, and the
scan is bound by memory), prices and sums float64.

A word remembers its `CANDIDATES` most profitable cells of the last scan, with a bound on the
profit of any other cell. As prices only rise, a candidate that beats this bound is the best
of the table, and most bids need no scan.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numba
import numpy as np

CANDIDATES = 8

# Fewer words than this are scanned by one thread: starting the others costs more than it
# gains, above all on a machine that is busy.
PARALLEL_BATCH = 1024

# A word that has bid so often in a round doubles what it adds to its bids, then again after
# as many more: words of nearly equal costs would bid each other up in steps of epsilon.
PATIENCE = 16
MOST_DOUBLINGS = 6

FREE = -1  # the owner of a cell that nobody holds

_INFINITY = np.inf


class Cells(NamedTuple):
    """The cells of the table, as bidders see them.

    Attributes:
        prices: `(R, C)`.
        row_floors: `(R,)`, at most `min_j(prices[i, j] - column_prices[j])`.
        column_prices: `(C,)`.
        owners: `(R * C,)`, a word, `FREE`, or less for those who do not bid for themselves.
    """

    prices: np.ndarray
    row_floors: np.ndarray
    column_prices: np.ndarray
    owners: np.ndarray


class Bidders(NamedTuple):
    """The words.

    Attributes:
        cells: `(V,)`, where each word is, -1 for nowhere.
        candidates: `(V, CANDIDATES)` cells, -1 for none.
        benefits: `(V, CANDIDATES)`, what the word gains there.
        outside: `(V,)`, a bound on its profit in any other cell.
        bids: `(V,)`, how often it has bid in this round.
        counters: `(3,)`, how many bids, scans of a word, and looks at a price there were.
    """

    cells: np.ndarray
    candidates: np.ndarray
    benefits: np.ndarray
    outside: np.ndarray
    bids: np.ndarray
    counters: np.ndarray


@numba.njit(cache=True, fastmath={"nnan", "nsz"})
def _subtract_prices(benefits, prices, profits):
    """Set `profits` to `benefits - prices`; return the greatest."""
    best = -_INFINITY
    for i in range(profits.size):
        profits[i] = benefits[i] - prices[i]
        best = max(best, profits[i])
    return best


@numba.njit(cache=True)
def _sort_promising(profits, least, places):
    """Write the places whose profit is above `least` in falling order; return their number."""
    count = 0
    for i in range(profits.size):
        if profits[i] > least:
            places[count] = i
            count += 1
    if count > 24:
        places[:count] = places[np.argsort(-profits[places[:count]])]
    else:
        for n in range(1, count):
            i = places[n]
            while n > 0 and profits[places[n - 1]] < profits[i]:
                places[n] = places[n - 1]
                n -= 1
            places[n] = i
    return count


@numba.njit(cache=True)
def _insert(cell, benefit, profit, place, candidates, benefits, profits):
    """Let a cell replace the last of `place + 1` candidates and move up to where it belongs."""
    while place > 0 and profits[place - 1] < profit:
        profits[place] = profits[place - 1]
        candidates[place] = candidates[place - 1]
        benefits[place] = benefits[place - 1]
        place -= 1
    profits[place] = profit
    candidates[place] = cell
    benefits[place] = benefit


@numba.njit(cache=True)
def _add(cell, benefit, profit, candidates, benefits, profits):
    """Put a better cell in the place of the last candidate; return the new least profit."""
    for k in range(CANDIDATES):
        if candidates[k] == cell:
            return profits[CANDIDATES - 1]
    _insert(cell, benefit, profit, CANDIDATES - 1, candidates, benefits, profits)
    return profits[CANDIDATES - 1]


@numba.njit(cache=True)
def find_candidates(a, b, cells, scratch, candidates, benefits):
    """Find the most profitable cells of a word.

    The profit in `(i, j)` is at most `(a[i] - row_floors[i]) + (b[j] - column_prices[j])`.
    Only cells for which this beats the least candidate have their own price looked at.

    Args:
        scratch: what `make_scratch` returned.
        candidates, benefits: `(CANDIDATES,)`, read as a first guess (-1: none) and
            overwritten, the most profitable first.

    Returns:
        A bound on the profit in any other cell, and how many prices were looked at.
    """
    prices, num_columns = cells.prices, b.size
    row_profits, column_profits, rows, columns, profits = scratch
    for k in range(CANDIDATES):
        cell = candidates[k]
        if cell < 0:
            profits[k] = -_INFINITY
            continue
        i, j = cell // num_columns, cell % num_columns
        benefit = np.float64(a[i]) + np.float64(b[j])
        _insert(cell, benefit, benefit - prices[i, j], k, candidates, benefits, profits)

    best_row = _subtract_prices(a, cells.row_floors, row_profits)
    best_column = _subtract_prices(b, cells.column_prices, column_profits)
    least = profits[CANDIDATES - 1]
    num_looks = 0
    # One row first, for a higher bar to what is promising.
    first_row = np.argmax(row_profits)
    for j in range(num_columns):
        if best_row + column_profits[j] > least:
            num_looks += 1
            benefit = np.float64(a[first_row]) + np.float64(b[j])
            profit = benefit - prices[first_row, j]
            if profit > least:
                cell = first_row * num_columns + j
                least = _add(cell, benefit, profit, candidates, benefits, profits)
    num_promising_rows = _sort_promising(row_profits, least - best_column, rows)
    num_promising_columns = _sort_promising(column_profits, least - best_row, columns)
    for n in range(num_promising_rows):
        i = rows[n]
        if i == first_row:
            continue
        for m in range(num_promising_columns):
            j = columns[m]
            if row_profits[i] + column_profits[j] <= least:
                break
            num_looks += 1
            benefit = np.float64(a[i]) + np.float64(b[j])
            profit = benefit - prices[i, j]
            if profit > least:
                cell = i * num_columns + j
                least = _add(cell, benefit, profit, candidates, benefits, profits)
    return least, num_looks


@numba.njit(cache=True)
def make_scratch(shape):
    """Return the arrays that `find_candidates` works in."""
    return (
        np.empty(shape[0]),
        np.empty(shape[1]),
        np.empty(shape[0], np.int32),
        np.empty(shape[1], np.int32),
        np.empty(CANDIDATES),
    )


@numba.njit(cache=True)
def scan_few_words(words, block_rows, row_benefits, column_benefits, cells, bidders):
    """Find the candidates of words; return the number of looks.

    The benefits of the nth word are in row `block_rows[n]` of the blocks.
    """
    scratch = make_scratch(cells.prices.shape)
    num_looks = 0
    for n in range(words.size):
        word = words[n]
        a, b = row_benefits[block_rows[n]], column_benefits[block_rows[n]]
        bidders.outside[word], looks = find_candidates(
            a, b, cells, scratch, bidders.candidates[word], bidders.benefits[word]
        )
        num_looks += looks
    return num_looks


@numba.njit(cache=True, parallel=True)
def scan_many_words(
    words, block_rows, row_benefits, column_benefits, cells, bidders, num_threads
):  # fmt: skip
    """Do what `scan_few_words` does, on several threads."""
    share = (words.size + num_threads - 1) // num_threads
    num_looks = 0
    for thread in numba.prange(num_threads):
        part = slice(thread * share, (thread + 1) * share)
        num_looks += scan_few_words(
            words[part], block_rows[part], row_benefits, column_benefits, cells, bidders
        )
    return num_looks


@numba.njit(cache=True)
def scan_words(words, block_rows, row_benefits, column_benefits, cells, bidders, num_threads):
    """Find the candidates of words, on as many threads as pay."""
    if words.size < PARALLEL_BATCH or num_threads == 1:
        num_looks = scan_few_words(words, block_rows, row_benefits, column_benefits, cells, bidders)
    else:
        num_looks = scan_many_words(
            words, block_rows, row_benefits, column_benefits, cells, bidders, num_threads
        )
    bidders.counters[1] += words.size
    bidders.counters[2] += num_looks


@numba.njit(cache=True)
def raise_price(cells, cell, price):
    """Raise the price of one cell; keep the floor of its row as great as it goes."""
    num_columns = cells.prices.shape[1]
    i, j = cell // num_columns, cell % num_columns
    was_floor = cells.prices[i, j] - cells.column_prices[j] <= cells.row_floors[i]
    cells.prices[i, j] = price
    if was_floor:
        floor = _INFINITY
        for column in range(num_columns):
            floor = min(floor, cells.prices[i, column] - cells.column_prices[column])
        cells.row_floors[i] = floor


@numba.njit(cache=True)
def place_bids(queue, num_queued, stale, epsilon, cells, bidders):
    """Let the words of the queue bid while their candidates hold good.

    A word none of whose candidates need be its best cell any more goes to `stale`, whose
    number is returned; a word that is outbid comes back to the queue.
    """
    flat_prices = cells.prices.ravel()
    num_stale = 0
    while num_queued > 0:
        num_queued -= 1
        word = queue[num_queued]
        best = -_INFINITY
        second = bidders.outside[word]
        best_cell = -1
        for k in range(CANDIDATES):
            cell = bidders.candidates[word, k]
            if cell < 0:
                break
            profit = bidders.benefits[word, k] - flat_prices[cell]
            if profit > best:
                second = max(second, best)
                best = profit
                best_cell = cell
            elif profit > second:
                second = profit
        if best_cell < 0 or best < bidders.outside[word] - 0.5 * epsilon:
            stale[num_stale] = word
            num_stale += 1
            continue
        if second == -_INFINITY:  # there is but one cell
            second = best
        step = epsilon * 2.0 ** min(bidders.bids[word] // PATIENCE, MOST_DOUBLINGS)
        bidders.bids[word] += 1
        bidders.counters[0] += 1
        raise_price(cells, best_cell, flat_prices[best_cell] + (best - second) + step)
        owner = cells.owners[best_cell]
        cells.owners[best_cell] = word
        bidders.cells[word] = best_cell
        if owner >= 0:
            bidders.cells[owner] = -1
            queue[num_queued] = owner
            num_queued += 1
    return num_stale


@numba.njit(cache=True)
def compute_floors(cells):
    """Split prices into a row part and a column part, from below and as great as they go."""
    num_rows, num_columns = cells.prices.shape
    for i in range(num_rows):
        floor = _INFINITY
        for j in range(num_columns):
            floor = min(floor, cells.prices[i, j])
        cells.row_floors[i] = floor
    cells.column_prices[:] = _INFINITY
    for i in range(num_rows):
        for j in range(num_columns):
            cells.column_prices[j] = min(
                cells.column_prices[j], cells.prices[i, j] - cells.row_floors[i]
            )
    for i in range(num_rows):
        floor = _INFINITY
        for j in range(num_columns):
            floor = min(floor, cells.prices[i, j] - cells.column_prices[j])
        cells.row_floors[i] = floor


@numba.njit(cache=True)
def settle_words(
    stale, num_stale, batch_size, max_scans, num_threads, epsilon,
    row_benefits, column_benefits, cells, bidders, queue,
):  # fmt: skip
    """Scan and bid until all words have cells or `max_scans` are spent; return how many lack."""
    num_scans = 0
    while num_stale > 0 and num_scans < max_scans:
        num_batch = min(batch_size, num_stale)
        num_stale -= num_batch
        batch = stale[num_stale : num_stale + num_batch]
        scan_words(batch, batch, row_benefits, column_benefits, cells, bidders, num_threads)
        num_scans += num_batch
        # The batch is copied to the queue: what becomes stale takes its place.
        queue[:num_batch] = batch
        num_stale += place_bids(queue, num_batch, stale[num_stale:], epsilon, cells, bidders)
    return num_stale


@numba.njit(cache=True)
def choose_greedily(costs, groups, room, chosen):
    """Let words choose in their order: the cheapest place of the word's group with room left."""
    for n in range(costs.shape[0]):
        group = groups[n]
        best = -1
        for place in range(costs.shape[1]):
            if room[group, place] > 0 and (best < 0 or costs[n, place] < costs[n, best]):
                best = place
        room[group, best] -= 1
        chosen[n] = best


@numba.njit(cache=True)
def match_greedily(
    heap, max_steps, taken_price, spans, row_benefits, column_benefits, cells, bidders
):  # fmt: skip
    """Match the pair of a word and a free cell of the greatest weight, until steps run out.

    The weight of a pair is `spans[word]` plus the benefit. The heap holds
    `(-weight, word)` with an upper bound of the word's greatest weight.
    """
    flat_prices = cells.prices.ravel()
    scratch = make_scratch(cells.prices.shape)
    for _ in range(max_steps):
        if len(heap) == 0:
            break
        key, word = heapq.heappop(heap)
        candidates, benefits = bidders.candidates[word], bidders.benefits[word]
        best = -_INFINITY
        best_cell = -1
        for attempt in range(2):
            for k in range(CANDIDATES):
                cell = candidates[k]
                if cell >= 0 and benefits[k] - flat_prices[cell] > best:
                    best = benefits[k] - flat_prices[cell]
                    best_cell = cell
            if attempt == 0:
                if best >= bidders.outside[word] and best_cell >= 0:
                    break
                bidders.outside[word], _ = find_candidates(
                    row_benefits[word], column_benefits[word], cells, scratch, candidates, benefits
                )
                best = -_INFINITY
        if -(spans[word] + best) > key:
            heapq.heappush(heap, (-(spans[word] + best), word))
            continue
        bidders.cells[word] = best_cell
        raise_price(cells, best_cell, taken_price)
