"""Compiled loops of the solvers that work with cell prices.

Here benefits are maximised: `a[i] + b[j]` is what a word gains in cell `(i, j)`, its
profit there is `a[i] + b[j] - prices[i, j]`. Benefits are float32 (half the memory, and the
scan is bound by memory), prices and sums float64.

A word remembers its `CANDIDATES` most profitable cells of the last scan, with the greatest
profit of any other cell. As prices only rise, the two best of these candidates are the two
best of the table for as long as both beat that profit, and most bids need no scan.
"""

from __future__ import annotations

import heapq

import numba
import numpy as np

CANDIDATES = 8

# Fewer words than this are scanned by one thread: starting the others costs more than it
# gains, above all on a machine that is busy.
PARALLEL_BATCH = 1024

_INFINITY = np.inf


@numba.njit(cache=True)
def find_candidates(a, b, prices, row_floors, column_prices, rows, columns, cells, benefits):
    """Find the most profitable cells of one word; return the best profit outside of them.

    With `row_floors[i] = min_j(prices[i, j] - column_prices[j])` or less, the profit in
    `(i, j)` is at most `(a[i] - row_floors[i]) + (b[j] - column_prices[j])`. Only cells
    for which this beats the least candidate have their own price looked at.

    Args:
        rows, columns: scratch, `(R,)` and `(C,)` integers.
        cells, benefits: `(CANDIDATES,)`, read as a first guess (-1: none) and overwritten,
            the most profitable first.
    """
    num_rows, num_columns = prices.shape
    flat_prices = prices.ravel()

    profits = np.empty(CANDIDATES)
    count = 0
    for k in range(CANDIDATES):  # the guess, at today's prices, sorted by insertion
        cell = cells[k]
        if cell < 0:
            break
        benefit = np.float64(a[cell // num_columns]) + np.float64(b[cell % num_columns])
        profit = benefit - flat_prices[cell]
        place = count
        while place > 0 and profits[place - 1] < profit:
            profits[place] = profits[place - 1]
            cells[place] = cells[place - 1]
            benefits[place] = benefits[place - 1]
            place -= 1
        profits[place] = profit
        cells[place] = cell
        benefits[place] = benefit
        count += 1
    for k in range(count, CANDIDATES):
        profits[k] = -_INFINITY
        cells[k] = -1
        benefits[k] = 0.0
    outside = -_INFINITY

    best_row = -_INFINITY
    for i in range(num_rows):
        best_row = max(best_row, a[i] - row_floors[i])
    best_column = -_INFINITY
    for j in range(num_columns):
        best_column = max(best_column, b[j] - column_prices[j])

    threshold = profits[CANDIDATES - 1]
    num_kept_columns = 0
    for j in range(num_columns):
        if b[j] - column_prices[j] + best_row > threshold:
            columns[num_kept_columns] = j
            num_kept_columns += 1
        else:
            outside = max(outside, b[j] - column_prices[j] + best_row)
    num_kept_rows = 0
    for i in range(num_rows):
        if a[i] - row_floors[i] + best_column > threshold:
            # The most promising row first, to raise the threshold early.
            rows[num_kept_rows] = i
            first = rows[0]
            if a[i] - row_floors[i] > a[first] - row_floors[first]:
                rows[num_kept_rows] = first
                rows[0] = i
            num_kept_rows += 1
        else:
            outside = max(outside, a[i] - row_floors[i] + best_column)

    for index in range(num_kept_rows):
        i = rows[index]
        bound_row = a[i] - row_floors[i]
        if bound_row + best_column <= threshold:
            outside = max(outside, bound_row + best_column)
            continue
        for column_index in range(num_kept_columns):
            j = columns[column_index]
            bound = bound_row + (b[j] - column_prices[j])
            if bound <= threshold:
                outside = max(outside, bound)
                continue
            benefit = np.float64(a[i]) + np.float64(b[j])
            profit = benefit - prices[i, j]
            if profit <= threshold:
                outside = max(outside, profit)
                continue
            cell = i * num_columns + j
            known = False
            for k in range(count):
                known |= cells[k] == cell
            if known:
                continue
            # The last candidate falls out, and may be the best of the rest.
            outside = max(outside, profits[CANDIDATES - 1])
            place = CANDIDATES - 1
            while place > 0 and profits[place - 1] < profit:
                profits[place] = profits[place - 1]
                cells[place] = cells[place - 1]
                benefits[place] = benefits[place - 1]
                place -= 1
            profits[place] = profit
            cells[place] = cell
            benefits[place] = benefit
            count = min(count + 1, CANDIDATES)
            threshold = profits[CANDIDATES - 1]
    return outside


@numba.njit(cache=True)
def scan_few_words(
    words, block_rows, row_benefits, column_benefits, prices, row_floors, column_prices,
    cells, benefits, outside,
):  # fmt: skip
    """Find the candidates of words; `block_rows[n]` is where the benefits of the nth lie."""
    rows = np.empty(prices.shape[0], np.int32)
    columns = np.empty(prices.shape[1], np.int32)
    for n in range(words.size):
        word = words[n]
        outside[word] = find_candidates(
            row_benefits[block_rows[n]], column_benefits[block_rows[n]],
            prices, row_floors, column_prices, rows, columns, cells[word], benefits[word],
        )  # fmt: skip


@numba.njit(cache=True, parallel=True)
def scan_many_words(
    words, block_rows, row_benefits, column_benefits, prices, row_floors, column_prices,
    cells, benefits, outside, num_threads,
):  # fmt: skip
    """Do what `scan_few_words` does, on several threads."""
    share = (words.size + num_threads - 1) // num_threads
    for thread in numba.prange(num_threads):
        part = slice(thread * share, (thread + 1) * share)
        scan_few_words(
            words[part], block_rows[part], row_benefits, column_benefits,
            prices, row_floors, column_prices, cells, benefits, outside,
        )  # fmt: skip


@numba.njit(cache=True)
def place_bids(
    queue, num_queued, stale, epsilon, prices, row_floors, column_prices,
    owners, cells_of_words, cells, benefits, outside,
):  # fmt: skip
    """Let the words of the queue bid while their candidates hold good.

    A word whose candidates may not hold its two best cells any more goes to `stale`, whose
    number is returned; a word that is outbid comes back to the queue.
    """
    num_rows, num_columns = prices.shape
    num_cells = num_rows * num_columns
    num_wanted = min(2, num_cells)
    num_stale = 0
    while num_queued > 0:
        num_queued -= 1
        word = queue[num_queued]
        best = second = -_INFINITY
        best_cell = -1
        for k in range(CANDIDATES):
            cell = cells[word, k]
            if cell < 0:
                break
            profit = benefits[word, k] - prices[cell // num_columns, cell % num_columns]
            if profit > best:
                second = best
                best = profit
                best_cell = cell
            elif profit > second:
                second = profit
        if best_cell < 0 or (second < outside[word]) or (num_wanted == 2 and second == -_INFINITY):
            stale[num_stale] = word
            num_stale += 1
            continue
        if num_wanted == 1:
            second = best
        i = best_cell // num_columns
        j = best_cell % num_columns
        old_price = prices[i, j]
        prices[i, j] = old_price + (best - second) + epsilon
        if old_price - column_prices[j] <= row_floors[i]:
            floor = _INFINITY
            for column in range(num_columns):
                floor = min(floor, prices[i, column] - column_prices[column])
            row_floors[i] = floor
        owner = owners[best_cell]
        owners[best_cell] = word
        cells_of_words[word] = best_cell
        if owner >= 0:
            cells_of_words[owner] = -1
            queue[num_queued] = owner
            num_queued += 1
    return num_stale


@numba.njit(cache=True)
def compute_floors(prices, row_floors, column_prices):
    """Split prices into a row part and a column part, from below and as great as they go."""
    num_rows, num_columns = prices.shape
    for i in range(num_rows):
        floor = _INFINITY
        for j in range(num_columns):
            floor = min(floor, prices[i, j])
        row_floors[i] = floor
    column_prices[:] = _INFINITY
    for i in range(num_rows):
        for j in range(num_columns):
            column_prices[j] = min(column_prices[j], prices[i, j] - row_floors[i])
    for i in range(num_rows):
        floor = _INFINITY
        for j in range(num_columns):
            floor = min(floor, prices[i, j] - column_prices[j])
        row_floors[i] = floor


@numba.njit(cache=True)
def settle_words(
    stale, num_stale, batch_size, max_scans, num_threads, epsilon,
    row_benefits, column_benefits, prices, row_floors, column_prices,
    owners, cells_of_words, cells, benefits, outside, queue,
):  # fmt: skip
    """Scan and bid until all words have cells or `max_scans` are spent; return how many lack."""
    num_scans = 0
    while num_stale > 0 and num_scans < max_scans:
        num_batch = min(batch_size, num_stale)
        num_stale -= num_batch
        batch = stale[num_stale : num_stale + num_batch]
        if num_batch >= PARALLEL_BATCH:
            scan_many_words(
                batch, batch, row_benefits, column_benefits, prices, row_floors, column_prices,
                cells, benefits, outside, num_threads,
            )  # fmt: skip
        else:
            scan_few_words(
                batch, batch, row_benefits, column_benefits, prices, row_floors, column_prices,
                cells, benefits, outside,
            )  # fmt: skip
        num_scans += num_batch
        # The batch is copied to the queue: what becomes stale takes its place.
        queue[:num_batch] = batch
        num_stale += place_bids(
            queue, num_batch, stale[num_stale:], epsilon, prices, row_floors, column_prices,
            owners, cells_of_words, cells, benefits, outside,
        )  # fmt: skip
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
    heap, max_steps, taken_price, spans, row_benefits, column_benefits, prices, row_floors,
    column_prices, cells_of_words, cells, benefits, outside,
):  # fmt: skip
    """Match the pair of a word and a free cell of the greatest weight, until steps run out.

    The weight of a pair is `spans[word]` plus the benefit. The heap holds
    `(-weight, word)` with an upper bound of the word's greatest weight.
    """
    num_columns = prices.shape[1]
    flat_prices = prices.ravel()
    rows = np.empty(prices.shape[0], np.int32)
    columns = np.empty(prices.shape[1], np.int32)
    for _ in range(max_steps):
        if len(heap) == 0:
            break
        key, word = heapq.heappop(heap)
        best = -_INFINITY
        best_cell = -1
        for attempt in range(2):
            for k in range(CANDIDATES):
                cell = cells[word, k]
                if cell >= 0 and benefits[word, k] - flat_prices[cell] > best:
                    best = benefits[word, k] - flat_prices[cell]
                    best_cell = cell
            if attempt == 0:
                if best >= outside[word] and best_cell >= 0:
                    break
                outside[word] = find_candidates(
                    row_benefits[word], column_benefits[word], prices, row_floors, column_prices,
                    rows, columns, cells[word], benefits[word],
                )  # fmt: skip
                best = -_INFINITY
        if -(spans[word] + best) > key:
            heapq.heappush(heap, (-(spans[word] + best), word))
            continue
        cells_of_words[word] = best_cell
        i = best_cell // num_columns
        flat_prices[best_cell] = taken_price
        floor = _INFINITY
        for column in range(num_columns):
            floor = min(floor, prices[i, column] - column_prices[column])
        row_floors[i] = floor
