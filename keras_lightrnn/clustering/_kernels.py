"""Compiled loops of clustering: words exchange cells within blocks of the table."""

from __future__ import annotations

import numpy as np

from keras_lightrnn._internal.compilation import njit

EMPTY = -1  # an empty cell, which words may take
FIXED = -2  # a cell that takes no part: its word stays, or it stays empty

# A smaller gain, as a share of the costs, may be rounding.
_ROUNDING = 1e-6
# Bids a word in the first phase of an assignment. The second phase needs none, but is slower.
_BIDS_A_WORD = 5


@njit(nogil=True)
def _find_two_least(costs, prices):
    """Return the lowest and the second lowest of `costs + prices`, and the place of the lowest."""
    best = second = np.float32(np.inf)
    place = 0
    for j in range(costs.size):
        cost = costs[j] + prices[j]
        if cost < second:
            if cost < best:
                second = best
                best = cost
                place = j
            else:
                second = cost
    return best, second, place


@njit(nogil=True)
def assign(costs, prices, places):
    """Solve a square assignment problem exactly (Jonker and Volgenant, Computing 38, 1987).

    Args:
        costs: `(N, N)` float32.
        prices: `(N,)` float32, dual variables. The closer they are to those of the solution, the
            faster it is found. Overwritten by those of the solution.
        places: `(N,)` int32, overwritten by the column of each row.
    """
    size = len(costs)
    owners = np.full(size, -1, np.int32)
    places[:] = -1
    # Rows take their best column and raise its price to the second best. The last row is first.
    waiting = np.arange(size)[::-1].copy()
    num_waiting = size
    tied = np.empty(size, np.int64)
    num_tied = 0
    num_bids = _BIDS_A_WORD * size
    while num_waiting > 0 and num_bids > 0:
        num_bids -= 1
        num_waiting -= 1
        row = waiting[num_waiting]
        best, second, column = _find_two_least(costs[row], prices)
        owner = owners[column]
        if second > best:
            if size > 1:
                prices[column] += second - best
        elif owner >= 0:
            tied[num_tied] = row
            num_tied += 1
            continue
        owners[column] = row
        places[row] = column
        if owner >= 0:
            places[owner] = -1
            waiting[num_waiting] = owner
            num_waiting += 1
    for n in range(num_waiting):
        tied[num_tied] = waiting[n]
        num_tied += 1
    for n in range(num_tied):
        _augment(tied[n], costs, prices, places, owners)


@njit(nogil=True)
def _augment(first_row, costs, prices, places, owners):
    """Assign one more row along the shortest path to a free column (Dijkstra's algorithm)."""
    size = len(costs)
    distances = costs[first_row] + prices
    before = np.full(size, first_row, np.int32)
    # Columns up to `done` have been searched, up to `near` they are next, all at one distance.
    columns = np.arange(size)
    done = near = 0
    least = np.float32(0.0)
    end = -1
    num_settled = 0
    while end < 0:
        if near == done:
            num_settled = done
            least = distances[columns[near]]
            near += 1
            for k in range(near, size):
                column = columns[k]
                if distances[column] <= least:
                    if distances[column] < least:
                        near = done
                        least = distances[column]
                    columns[k] = columns[near]
                    columns[near] = column
                    near += 1
            for k in range(done, near):
                if owners[columns[k]] < 0:
                    end = columns[k]
                    break
            if end >= 0:
                break
        column = columns[done]
        done += 1
        row = owners[column]
        shift = costs[row, column] + prices[column] - least
        for k in range(near, size):
            column = columns[k]
            distance = costs[row, column] + prices[column] - shift
            if distance < distances[column]:
                distances[column] = distance
                before[column] = row
                if distance <= least:
                    if owners[column] < 0:
                        end = column
                        break
                    columns[k] = columns[near]
                    columns[near] = column
                    near += 1
    for k in range(num_settled):
        prices[columns[k]] += least - distances[columns[k]]
    column = end
    while True:
        row = before[column]
        owners[column] = row
        previous = places[row]
        places[row] = column
        column = previous
        if row == first_row:
            break


@njit(nogil=True)
def _fill_costs(
    features, row_vectors, column_vectors, row_squares, column_squares,
    rows, columns, block_words, block_rows, block_columns, costs,
):  # fmt: skip
    """Write the costs of the words of a block in its cells; words `-1` cost nothing.

    A word costs `|row_vector + column_vector|**2 - 2 * features @ (row_vector + column_vector)`.
    """
    num_cells = block_words.size
    width = features.shape[1]
    products = np.zeros((rows.size, columns.size), np.float32)
    for a in range(rows.size):
        for b in range(columns.size):
            product = np.float32(0.0)
            for f in range(width):
                product += row_vectors[rows[a], f] * column_vectors[columns[b], f]
            products[a, b] = row_squares[rows[a]] + column_squares[columns[b]] + 2 * product
    local_rows = np.empty((width, rows.size), np.float32)
    local_columns = np.empty((width, columns.size), np.float32)
    for f in range(width):
        for a in range(rows.size):
            local_rows[f, a] = row_vectors[rows[a], f]
        for b in range(columns.size):
            local_columns[f, b] = column_vectors[columns[b], f]
    by_row = np.empty(rows.size, np.float32)
    by_column = np.empty(columns.size, np.float32)
    for n in range(num_cells):
        word = block_words[n]
        if word < 0:
            costs[n, :num_cells] = 0.0
            continue
        by_row[:] = 0.0
        by_column[:] = 0.0
        for f in range(width):
            feature = features[word, f]
            for a in range(rows.size):
                by_row[a] += feature * local_rows[f, a]
            for b in range(columns.size):
                by_column[b] += feature * local_columns[f, b]
        for m in range(num_cells):
            a, b = block_rows[m], block_columns[m]
            costs[n, m] = products[a, b] - 2 * (by_row[a] + by_column[b])


@njit(nogil=True)
def exchange_in_blocks(
    first_block, last_block, row_order, row_borders, column_order, column_borders,
    features, row_vectors, column_vectors, row_squares, column_squares, words, prices,
):  # fmt: skip
    """Let the words of each block exchange their cells, at the least cost; count those that move.

    Args:
        first_block, last_block: Integers. Blocks are numbered row by row; these are the first and
            the first not to visit.
        row_order: `(R,)`. The rows `row_order[row_borders[p]:row_borders[p + 1]]` and
        column_order: `(C,)`, columns likewise, form a block.
        row_borders, column_borders: the borders of blocks in the two orders.
        features: `(V, F)` float32.
        row_vectors, column_vectors: `(R, F)` and `(C, F)` float32.
        row_squares, column_squares: `(R,)` and `(C,)` float32, their squared lengths.
        words: `(R, C)`, the word in each cell, `EMPTY` or `FIXED`. Changed.
        prices: `(R, C)` float32, the prices of cells that blocks start from. Changed.
    """
    num_blocks_a_row = column_borders.size - 1
    largest = np.diff(row_borders).max() * np.diff(column_borders).max()
    block_words = np.empty(largest, np.int64)
    block_rows = np.empty(largest, np.int64)
    block_columns = np.empty(largest, np.int64)
    block_prices = np.empty(largest, np.float32)
    places = np.empty(largest, np.int32)
    all_costs = np.empty((largest, largest), np.float32)
    num_moved = 0
    for block in range(first_block, last_block):
        p, q = block // num_blocks_a_row, block % num_blocks_a_row
        rows = row_order[row_borders[p] : row_borders[p + 1]]
        columns = column_order[column_borders[q] : column_borders[q + 1]]
        num_cells = num_words = 0
        for a in range(rows.size):
            for b in range(columns.size):
                word = words[rows[a], columns[b]]
                if word != FIXED:
                    block_words[num_cells] = word
                    block_rows[num_cells] = a
                    block_columns[num_cells] = b
                    block_prices[num_cells] = prices[rows[a], columns[b]]
                    num_cells += 1
                    num_words += word >= 0
        if num_words == 0 or num_cells < 2:
            continue
        costs = all_costs[:num_cells, :num_cells]
        _fill_costs(
            features, row_vectors, column_vectors, row_squares, column_squares,
            rows, columns, block_words[:num_cells], block_rows, block_columns, costs,
        )  # fmt: skip
        mean = block_prices[:num_cells].mean()
        assign(costs, block_prices[:num_cells], places[:num_cells])
        # Only differences within a block are known; the level of its prices stays.
        shift = mean - block_prices[:num_cells].mean()
        before = after = magnitude = 0.0
        for n in range(num_cells):
            prices[rows[block_rows[n]], columns[block_columns[n]]] = block_prices[n] + shift
            before += costs[n, n]
            after += costs[n, places[n]]
            magnitude += abs(costs[n, n])
        if before - after <= _ROUNDING * magnitude:
            continue
        for n in range(num_cells):
            m = places[n]
            num_moved += block_words[n] >= 0 and m != n
            words[rows[block_rows[m]], columns[block_columns[m]]] = block_words[n]
    return num_moved
