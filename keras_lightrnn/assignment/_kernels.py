"""Compiled loops of the solvers that work with cell prices.

These loops maximise benefits: a word gains `a[i] + b[j]` in cell `(i, j)`, and its profit there is
`a[i] + b[j] - prices[i, j]`. Benefits are float32, because the scan is bound by memory; prices and
sums are float64.

A word remembers the `CANDIDATES` most profitable cells of its last scan, and a bound on the profit
in any other cell. Prices only rise, so a candidate that beats this bound is the best cell of the
table, and most bids need no scan.

Arrays are copied by loops: Numba takes three seconds to compile the error message of a copy from
one slice to another.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np
from numba.typed import List

from keras_lightrnn._internal.compilation import njit

CANDIDATES = 16

# Batches of fewer words are scanned by one thread: starting others costs more than it gains.
PARALLEL_BATCH = 1024

# A word doubles the step of its bids after so many bids in a round, and again after as many more.
# Words with nearly equal costs would otherwise raise prices in steps of epsilon.
PATIENCE = 16
MOST_DOUBLINGS = 6

# Floors are raised once in `num_cells / FLOOR_SCANS` scans, because that reads all prices.
FLOOR_SCANS = 128

FREE = -1  # the owner of a free cell

# Indices of `Bidders.counters`.
BIDS, SCANS, LOOKS, SCANS_SINCE_FLOORS = range(4)

_INFINITY = np.inf


class Cells(NamedTuple):
    """The cells of the table.

    Attributes:
        prices: `(R, C)`, each at least `row_floors[i] + column_floors[j]`.
        row_floors: `(R,)`.
        column_floors: `(C,)`.
        owners: `(R * C,)`, a word, `FREE`, or a smaller number for a group of words.
    """

    prices: np.ndarray
    row_floors: np.ndarray
    column_floors: np.ndarray
    owners: np.ndarray


class Offers(NamedTuple):
    """The bids of a batch of words, all at the same prices.

    Attributes:
        words: `(N,)`.
        cells: `(N,)`, the best cell of each word, -1 if a scan is needed.
        prices: `(N,)`, the price at which another cell is as good.
        profits: `(N,)`, the profit in the best cell.
    """

    words: np.ndarray
    cells: np.ndarray
    prices: np.ndarray
    profits: np.ndarray


class Bidders(NamedTuple):
    """The words.

    Attributes:
        cells: `(V,)`, the cell of each word, or -1.
        candidates: `(V, CANDIDATES)` cells, or -1.
        benefits: `(V, CANDIDATES)` float32, the benefits of the candidates.
        outside: `(V,)`, a bound on the profit in any other cell.
        bids: `(V,)`, the number of bids in this round.
        counters: `(4,)`, the numbers of bids, of scans of a word, of looks at a price, and of
            scans since the floors were raised (`BIDS`, `SCANS`, `LOOKS`, `SCANS_SINCE_FLOORS`).
    """

    cells: np.ndarray
    candidates: np.ndarray
    benefits: np.ndarray
    outside: np.ndarray
    bids: np.ndarray
    counters: np.ndarray


@njit(nogil=True, fastmath={"nnan", "nsz"})
def _subtract_prices(benefits, prices, profits):
    """Set `profits` to `benefits - prices`; return the largest."""
    best = -_INFINITY
    for i in range(profits.size):
        profits[i] = benefits[i] - prices[i]
        best = max(best, profits[i])
    return best


@njit(nogil=True)
def _sort_promising(profits, least, places):
    """Write the places with a profit above `least`, in falling order; return their number."""
    count = 0
    for i in range(profits.size):
        if profits[i] > least:
            places[count] = i
            count += 1
    if count > 24:
        promising = places[:count].copy()
        order = np.argsort(-profits[promising])
        for n in range(count):
            places[n] = promising[order[n]]
    else:
        for n in range(1, count):
            i = places[n]
            while n > 0 and profits[places[n - 1]] < profits[i]:
                places[n] = places[n - 1]
                n -= 1
            places[n] = i
    return count


@njit(nogil=True)
def _insert(cell, benefit, profit, place, candidates, benefits, profits):
    """Replace the last of `place + 1` candidates by a cell, and sort it in."""
    while place > 0 and profits[place - 1] < profit:
        profits[place] = profits[place - 1]
        candidates[place] = candidates[place - 1]
        benefits[place] = benefits[place - 1]
        place -= 1
    profits[place] = profit
    candidates[place] = cell
    benefits[place] = benefit


@njit(nogil=True)
def _add(cell, benefit, profit, candidates, benefits, profits):
    """Replace the last candidate by a better cell; return the new least profit."""
    for k in range(CANDIDATES):
        if candidates[k] == cell:
            return profits[CANDIDATES - 1]
    _insert(cell, benefit, profit, CANDIDATES - 1, candidates, benefits, profits)
    return profits[CANDIDATES - 1]


@njit(nogil=True)
def find_candidates(a, b, cells, scratch, candidates, benefits):
    """Find the most profitable cells of a word.

    The profit in `(i, j)` is at most `(a[i] - row_floors[i]) + (b[j] - column_floors[j])`.
    The price of a cell is read only if this bound beats the worst candidate.

    Args:
        scratch: the result of `_make_scratch`.
        candidates: `(CANDIDATES,)`, a first guess (-1 for none); overwritten by the most
            profitable cells, the best first.
        benefits: `(CANDIDATES,)`, overwritten.

    Returns:
        A bound on the profit in any other cell, and the number of prices read.
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
    best_column = _subtract_prices(b, cells.column_floors, column_profits)
    least = profits[CANDIDATES - 1]
    num_looks = 0
    # One row first: it raises the threshold for the other rows.
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


@njit(nogil=True)
def _make_scratch(shape):
    """Return work arrays for `find_candidates`."""
    return (
        np.empty(shape[0]),
        np.empty(shape[1]),
        np.empty(shape[0], np.int32),
        np.empty(shape[1], np.int32),
        np.empty(CANDIDATES),
    )


@njit(nogil=True)
def _choose_candidate(word, tolerance, flat_prices, bidders):
    """Find the best cell of a word among its candidates.

    Returns:
        The cell (-1 if another may be better by more than `tolerance`), the price at which another
        cell is as good, and the profit.
    """
    outside = bidders.outside[word]
    best = second = -_INFINITY
    best_cell = -1
    best_benefit = 0.0
    for k in range(CANDIDATES):
        cell = bidders.candidates[word, k]
        if cell < 0:
            break
        benefit = np.float64(bidders.benefits[word, k])
        profit = benefit - flat_prices[cell]
        if profit > best:
            second, best = best, profit
            best_benefit, best_cell = benefit, cell
        elif profit > second:
            second = profit
    if best < outside - tolerance:
        return -1, 0.0, outside
    second = max(second, outside)
    if second == -_INFINITY:  # the table has one cell
        second = best
    return best_cell, best_benefit - second, best


@njit(nogil=True)
def scan_words(block_rows, row_benefits, column_benefits, cells, bidders, offers):
    """Find the candidates and the offers of words; return the number of looks.

    The benefits of the nth word are in row `block_rows[n]` of the blocks.
    """
    scratch = _make_scratch(cells.prices.shape)
    flat_prices = cells.prices.ravel()
    num_looks = 0
    for n in range(offers.words.size):
        word = offers.words[n]
        a, b = row_benefits[block_rows[n]], column_benefits[block_rows[n]]
        bidders.outside[word], looks = find_candidates(
            a, b, cells, scratch, bidders.candidates[word], bidders.benefits[word]
        )
        num_looks += looks
        choice = _choose_candidate(word, _INFINITY, flat_prices, bidders)
        offers.cells[n], offers.prices[n], offers.profits[n] = choice
    return num_looks


@njit(nogil=True)
def take_offers(offers, start, stop):
    return Offers(
        offers.words[start:stop],
        offers.cells[start:stop],
        offers.prices[start:stop],
        offers.profits[start:stop],
    )


@njit(nogil=True)
def _accept_offer(
    word, cell, price, queue, num_queued, stale, num_stale, epsilon, flat_prices, owners, bidders
):  # fmt: skip
    """Let a word place its bid.

    A word that needs a scan goes to `stale`. A word that is outbid goes to the queue, and so does
    the word itself if its offer is below the present price. Returns the numbers of words in the
    queue and in `stale`.
    """
    if cell < 0:
        stale[num_stale] = word
        return num_queued, num_stale + 1
    price += epsilon * 2.0 ** min(bidders.bids[word] // PATIENCE, MOST_DOUBLINGS)
    if price <= flat_prices[cell]:
        queue[num_queued] = word
        return num_queued + 1, num_stale
    bidders.bids[word] += 1
    bidders.counters[BIDS] += 1
    flat_prices[cell] = price
    owner = owners[cell]
    owners[cell] = word
    bidders.cells[word] = cell
    if owner >= 0:
        bidders.cells[owner] = -1
        queue[num_queued] = owner
        num_queued += 1
    return num_queued, num_stale


@njit(nogil=True)
def _accept_offers(offers, queue, num_queued, stale, num_stale, epsilon, cells, bidders):
    """Let words place their bids, one after another."""
    flat_prices = cells.prices.ravel()
    for n in range(offers.words.size):
        num_queued, num_stale = _accept_offer(
            offers.words[n], offers.cells[n], offers.prices[n], queue, num_queued,
            stale, num_stale, epsilon, flat_prices, cells.owners, bidders,
        )  # fmt: skip
    return num_queued, num_stale


@njit(nogil=True)
def place_bids(queue, num_queued, stale, num_stale, epsilon, cells, bidders):
    """Let the words of the queue bid until all have cells or are stale; return the number stale."""
    flat_prices = cells.prices.ravel()
    while num_queued > 0:
        num_queued -= 1
        word = queue[num_queued]
        cell, price, _ = _choose_candidate(word, 0.5 * epsilon, flat_prices, bidders)
        num_queued, num_stale = _accept_offer(
            word, cell, price, queue, num_queued, stale, num_stale, epsilon,
            flat_prices, cells.owners, bidders,
        )  # fmt: skip
    return num_stale


@njit(nogil=True, fastmath={"nnan", "nsz"})
def raise_floors(cells):
    """Raise the floors as far as possible, rows first."""
    num_rows, num_columns = cells.prices.shape
    for i in range(num_rows):
        floor = _INFINITY
        for j in range(num_columns):
            floor = min(floor, cells.prices[i, j] - cells.column_floors[j])
        cells.row_floors[i] = floor
    cells.column_floors[:] = _INFINITY
    for i in range(num_rows):
        floor = cells.row_floors[i]
        for j in range(num_columns):
            cells.column_floors[j] = min(cells.column_floors[j], cells.prices[i, j] - floor)


@njit(nogil=True)
def compute_floors(cells):
    """Bound prices from below by a row part plus a column part, as tightly as possible."""
    cells.column_floors[:] = 0.0
    raise_floors(cells)
    raise_floors(cells)


@njit(nogil=True)
def begin_batch(num_batch, stale, num_stale, cells, bidders, offers):
    """Move the last stale words to the first `offers`, for a scan; return the number left.

    The floors are raised if enough scans have passed.
    """
    num_stale -= num_batch
    for n in range(num_batch):
        offers.words[n] = stale[num_stale + n]
    bidders.counters[SCANS_SINCE_FLOORS] += num_batch
    if bidders.counters[SCANS_SINCE_FLOORS] * FLOOR_SCANS >= cells.owners.size:
        bidders.counters[SCANS_SINCE_FLOORS] = 0
        raise_floors(cells)
    return num_stale


@njit(nogil=True)
def end_batch(num_batch, num_looks, stale, num_stale, epsilon, cells, bidders, offers, queue):
    """Let the scanned words bid, and the words that they outbid; return the number stale."""
    bidders.counters[SCANS] += num_batch
    bidders.counters[LOOKS] += num_looks
    batch = take_offers(offers, 0, num_batch)
    num_queued, num_stale = _accept_offers(
        batch, queue, 0, stale, num_stale, epsilon, cells, bidders
    )
    return place_bids(queue, num_queued, stale, num_stale, epsilon, cells, bidders)


@njit(nogil=True)
def settle_words(
    max_scans, num_left, stale, num_stale, epsilon, row_benefits, column_benefits,
    cells, bidders, offers, queue,
):  # fmt: skip
    """Scan and bid until all words but `num_left` have cells or `max_scans` scans are done.

    The loop also ends when a batch is large enough for several threads. Returns the number stale.
    """
    while num_stale > num_left and max_scans > 0:
        num_batch = min(offers.words.size, num_stale)
        if num_batch >= PARALLEL_BATCH:
            break
        max_scans -= num_batch
        num_stale = begin_batch(num_batch, stale, num_stale, cells, bidders, offers)
        batch = take_offers(offers, 0, num_batch)
        num_looks = scan_words(batch.words, row_benefits, column_benefits, cells, bidders, batch)
        num_stale = end_batch(
            num_batch, num_looks, stale, num_stale, epsilon, cells, bidders, offers, queue
        )
    return num_stale


@njit(nogil=True)
def _find_two_least(costs):
    least = second = _INFINITY
    for place in range(costs.size):
        if costs[place] < least:
            least, second = costs[place], least
        elif costs[place] < second:
            second = costs[place]
    return least, second


@njit(nogil=True)
def find_regrets(costs, least, regrets):
    """Find the lowest cost of each word, and its distance to the second lowest."""
    for n in range(costs.shape[0]):
        least[n], second = _find_two_least(costs[n])
        regrets[n] = second - least[n]


@njit(nogil=True)
def choose_greedily(costs, groups, room, chosen):
    """Let words choose in order: the cheapest place of the word's group with room left."""
    for n in range(costs.shape[0]):
        group = groups[n]
        best = -1
        for place in range(costs.shape[1]):
            if room[group, place] > 0 and (best < 0 or costs[n, place] < costs[n, best]):
                best = place
        room[group, best] -= 1
        chosen[n] = best


def make_heap(keys: np.ndarray) -> Any:
    """Return a heap of pairs of a key and its place, for `match_greedily`."""
    # A sorted list is a heap.
    return List([(keys[place], place) for place in np.argsort(keys, kind="stable")])


@njit(nogil=True)
def match_greedily(
    heap, max_steps, taken_price, spans, row_benefits, column_benefits, cells, bidders
):  # fmt: skip
    """Match the word and the free cell with the largest weight, `max_steps` times.

    The weight of a pair is `spans[word]` plus the benefit. The heap holds
    `(-weight, word)`, an upper bound on the word's largest weight.
    """
    flat_prices = cells.prices.ravel()
    scratch = _make_scratch(cells.prices.shape)
    raise_floors(cells)
    for _ in range(max_steps):
        if len(heap) == 0:
            break
        key, word = heapq.heappop(heap)
        cell, _, profit = _choose_candidate(word, 0.0, flat_prices, bidders)
        if cell < 0:
            bidders.outside[word], _ = find_candidates(
                row_benefits[word], column_benefits[word], cells, scratch,
                bidders.candidates[word], bidders.benefits[word],
            )  # fmt: skip
            cell, _, profit = _choose_candidate(word, _INFINITY, flat_prices, bidders)
        if -(spans[word] + profit) > key:
            heapq.heappush(heap, (-(spans[word] + profit), word))
            continue
        bidders.cells[word] = cell
        flat_prices[cell] = taken_price
