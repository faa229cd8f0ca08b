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

CANDIDATES = 16

# Fewer words than this are scanned by one thread: starting the others costs more than it
# gains, above all on a machine that is busy.
PARALLEL_BATCH = 1024

# A word that has bid so often in a round doubles what it adds to its bids, then again after
# as many more: words of nearly equal costs would bid each other up in steps of epsilon.
PATIENCE = 16
MOST_DOUBLINGS = 6

# Floors are raised after so many scans for so many times as many cells: it reads all prices.
FLOOR_SCANS = 128

FREE = -1  # the owner of a cell that nobody holds

# Places in `Bidders.counters`.
BIDS, SCANS, LOOKS, SCANS_SINCE_FLOORS = range(4)

_INFINITY = np.inf


class Cells(NamedTuple):
    """The cells of the table, as bidders see them.

    Attributes:
        prices: `(R, C)`.
        row_floors: `(R,)`, and
        column_floors: `(C,)`, of which every price is at least the sum.
        owners: `(R * C,)`, a word, `FREE`, or less for those who do not bid for themselves.
    """

    prices: np.ndarray
    row_floors: np.ndarray
    column_floors: np.ndarray
    owners: np.ndarray


class Offers(NamedTuple):
    """What a batch of words would bid, decided together at the same prices.

    Attributes:
        words: `(N,)`.
        cells: `(N,)`, the best cell of each, -1 if only a scan can tell.
        prices: `(N,)`, at which the word would as soon have another.
        profits: `(N,)`, in the best cell.
    """

    words: np.ndarray
    cells: np.ndarray
    prices: np.ndarray
    profits: np.ndarray


class Bidders(NamedTuple):
    """The words.

    Attributes:
        cells: `(V,)`, where each word is, -1 for nowhere.
        candidates: `(V, CANDIDATES)` cells, -1 for none.
        benefits: `(V, CANDIDATES)` float32, what the word gains there.
        outside: `(V,)`, a bound on its profit in any other cell.
        bids: `(V,)`, how often it has bid in this round.
        counters: `(4,)`, how many bids, scans of a word, and looks at a price there were
            (`BIDS`, `SCANS`, `LOOKS`), and how many scans since the floors were raised
            (`SCANS_SINCE_FLOORS`).
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

    The profit in `(i, j)` is at most `(a[i] - row_floors[i]) + (b[j] - column_floors[j])`.
    Only cells for which this beats the least candidate have their own price looked at.

    Args:
        scratch: what `_make_scratch` returned.
        candidates, benefits: `(CANDIDATES,)`, the former read as a first guess (-1: none),
            both overwritten, the most profitable first.

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
    best_column = _subtract_prices(b, cells.column_floors, column_profits)
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
def _make_scratch(shape):
    """Return the arrays that `find_candidates` works in."""
    return (
        np.empty(shape[0]),
        np.empty(shape[1]),
        np.empty(shape[0], np.int32),
        np.empty(shape[1], np.int32),
        np.empty(CANDIDATES),
    )


@numba.njit(cache=True)
def _choose_candidate(word, tolerance, flat_prices, bidders):
    """Find the best cell of a word among its candidates.

    Returns:
        The cell (-1 if another may be better by more than `tolerance`), the price there at
        which another would be as good, and the profit.
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
    if second == -_INFINITY:  # there is but one cell
        second = best
    return best_cell, best_benefit - second, best


@numba.njit(cache=True)
def scan_few_words(block_rows, row_benefits, column_benefits, cells, bidders, offers):
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


@numba.njit(cache=True)
def _take(offers, start, stop):
    return Offers(
        offers.words[start:stop],
        offers.cells[start:stop],
        offers.prices[start:stop],
        offers.profits[start:stop],
    )


@numba.njit(cache=True, parallel=True)
def scan_many_words(
    block_rows, row_benefits, column_benefits, cells, bidders, offers, num_threads
):  # fmt: skip
    """Do what `scan_few_words` does, on several threads."""
    share = (offers.words.size + num_threads - 1) // num_threads
    num_looks = 0
    for thread in numba.prange(num_threads):
        start, stop = thread * share, (thread + 1) * share
        num_looks += scan_few_words(
            block_rows[start:stop], row_benefits, column_benefits, cells, bidders,
            _take(offers, start, stop),
        )  # fmt: skip
    return num_looks


@numba.njit(cache=True)
def scan_words(block_rows, row_benefits, column_benefits, cells, bidders, offers, num_threads):
    """Find the candidates and the offers of words, on as many threads as pay."""
    if offers.words.size < PARALLEL_BATCH or num_threads == 1:
        num_looks = scan_few_words(
            block_rows, row_benefits, column_benefits, cells, bidders, offers
        )
    else:
        num_looks = scan_many_words(
            block_rows, row_benefits, column_benefits, cells, bidders, offers, num_threads
        )
    bidders.counters[SCANS] += offers.words.size
    bidders.counters[LOOKS] += num_looks


@numba.njit(cache=True)
def _choose_few(tolerance, flat_prices, bidders, offers):
    """Find the offers of words among their candidates."""
    for n in range(offers.words.size):
        choice = _choose_candidate(offers.words[n], tolerance, flat_prices, bidders)
        offers.cells[n], offers.prices[n], offers.profits[n] = choice


@numba.njit(cache=True, parallel=True)
def _choose_many(tolerance, flat_prices, bidders, offers, num_threads):
    share = (offers.words.size + num_threads - 1) // num_threads
    for thread in numba.prange(num_threads):
        part = _take(offers, thread * share, (thread + 1) * share)
        _choose_few(tolerance, flat_prices, bidders, part)


@numba.njit(cache=True)
def _accept_offer(
    word, cell, price, queue, num_queued, stale, num_stale, epsilon, flat_prices, owners, bidders
):  # fmt: skip
    """Let a word bid what it offers.

    A word whose best cell only a scan can tell goes to `stale`, one that is outbid to the queue,
    and so does the word itself if the cell has become too dear since it chose. Returns how many
    words are in the queue and how many are stale.
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


@numba.njit(cache=True)
def _accept_offers(offers, queue, num_queued, stale, num_stale, epsilon, cells, bidders):
    """Let words bid what they offer, one after another."""
    flat_prices = cells.prices.ravel()
    for n in range(offers.words.size):
        num_queued, num_stale = _accept_offer(
            offers.words[n], offers.cells[n], offers.prices[n], queue, num_queued,
            stale, num_stale, epsilon, flat_prices, cells.owners, bidders,
        )  # fmt: skip
    return num_queued, num_stale


@numba.njit(cache=True)
def place_bids(
    queue, num_queued, stale, num_stale, epsilon, batch_size, cells, bidders, offers, num_threads
):  # fmt: skip
    """Let the words of the queue bid until all have cells or are stale.

    As long as there are `batch_size` of them so many decide at a time, on several threads; from
    then on each knows what the last has paid. Returns how many are stale.
    """
    flat_prices = cells.prices.ravel()
    while num_queued > 0:
        if num_queued >= batch_size:
            num_queued -= batch_size
            batch = _take(offers, 0, batch_size)
            batch.words[:] = queue[num_queued : num_queued + batch_size]
            _choose_many(0.5 * epsilon, flat_prices, bidders, batch, num_threads)
            num_queued, num_stale = _accept_offers(
                batch, queue, num_queued, stale, num_stale, epsilon, cells, bidders
            )
        else:
            num_queued -= 1
            word = queue[num_queued]
            cell, price, _ = _choose_candidate(word, 0.5 * epsilon, flat_prices, bidders)
            num_queued, num_stale = _accept_offer(
                word, cell, price, queue, num_queued, stale, num_stale, epsilon,
                flat_prices, cells.owners, bidders,
            )  # fmt: skip
    return num_stale


@numba.njit(cache=True, fastmath={"nnan", "nsz"})
def raise_floors(cells):
    """Make the floors as great as they go, rows first; none falls."""
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


@numba.njit(cache=True)
def compute_floors(cells):
    """Split prices into a row part and a column part, from below and as great as they go."""
    cells.column_floors[:] = 0.0
    raise_floors(cells)
    raise_floors(cells)


@numba.njit(cache=True)
def settle_batch(
    num_batch, block_rows, stale, num_stale, epsilon, batch_size, row_benefits, column_benefits,
    cells, bidders, offers, queue, num_threads,
):  # fmt: skip
    """Scan the first words of `offers`; let them bid, and those that they put out.

    Returns how many words are stale.
    """
    batch = _take(offers, 0, num_batch)
    bidders.counters[SCANS_SINCE_FLOORS] += num_batch
    if bidders.counters[SCANS_SINCE_FLOORS] * FLOOR_SCANS >= cells.owners.size:
        bidders.counters[SCANS_SINCE_FLOORS] = 0
        raise_floors(cells)
    scan_words(block_rows, row_benefits, column_benefits, cells, bidders, batch, num_threads)
    num_queued, num_stale = _accept_offers(
        batch, queue, 0, stale, num_stale, epsilon, cells, bidders
    )
    return place_bids(
        queue, num_queued, stale, num_stale, epsilon, batch_size,
        cells, bidders, offers, num_threads,
    )  # fmt: skip


@numba.njit(cache=True)
def settle_words(
    max_scans, num_left, stale, num_stale, epsilon, batch_size, row_benefits, column_benefits,
    cells, bidders, offers, queue, num_threads,
):  # fmt: skip
    """Scan and bid until all words but `num_left` have cells or `max_scans` are spent.

    Returns how many lack one.
    """
    while num_stale > num_left and max_scans > 0:
        num_batch = min(offers.words.size, num_stale)
        num_stale -= num_batch
        max_scans -= num_batch
        offers.words[:num_batch] = stale[num_stale : num_stale + num_batch]
        num_stale = settle_batch(
            num_batch, offers.words[:num_batch].copy(), stale, num_stale, epsilon, batch_size,
            row_benefits, column_benefits, cells, bidders, offers, queue, num_threads,
        )  # fmt: skip
    return num_stale


@numba.njit(cache=True)
def _find_two_least(costs):
    least = second = _INFINITY
    for place in range(costs.size):
        if costs[place] < least:
            least, second = costs[place], least
        elif costs[place] < second:
            second = costs[place]
    return least, second


@numba.njit(cache=True, parallel=True)
def find_regrets(costs, least, regrets):
    """Write down the least cost of each word, and how much more the second least is."""
    for n in numba.prange(costs.shape[0]):
        least[n], second = _find_two_least(costs[n])
        regrets[n] = second - least[n]


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
