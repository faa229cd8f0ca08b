"""Compiled loops of clustering: words exchange cells within blocks of the table."""

from __future__ import annotations

import numpy as np

from keras_lightrnn._internal.compilation import njit

EMPTY = -1  # an empty cell, which words may take
FIXED = -2  # a cell that takes no part: its word stays, or it stays empty

# A smaller gain, as a share of the costs, may be rounding.
_ROUNDING = np.float32(1e-6)
# Words that exchange cells at a time.
_LONGEST_CHAIN = 5


# Sums in any order, which vectorise.
@njit(nogil=True, fastmath={"reassoc", "contract"})
def _multiply(features, words, vectors, products):
    """Write twice the inner products of words and vectors, `(N, n)`; none of negative words."""
    for n in range(words.size):
        if words[n] < 0:
            continue
        for m in range(len(vectors)):
            total = np.float32(0.0)
            for f in range(vectors.shape[1]):
                total += features[words[n], f] * vectors[m, f]
            products[n, m] = 2 * total


@njit(nogil=True)
def _fill_costs(features, words, vectors, num_rows, costs):
    """Write the costs of the words of a block in its cells.

    A word in the cell `(a, b)` costs `|row_a + column_b|**2 - 2 * features @ (row_a + column_b)`,
    and nothing if it is negative.

    Args:
        features: `(V, F)` float32.
        words: `(A B,)`, the word in each cell.
        vectors: `(A + B, F)` float32, of rows and then of columns.
        num_rows: Integer `A`.
        costs: `(A B, A B)`, overwritten.
    """
    num_columns = len(vectors) - num_rows
    products = np.empty((words.size, len(vectors)), np.float32)
    _multiply(features, words, vectors, products)
    squares = np.empty(words.size, np.float32)
    for a in range(num_rows):
        for b in range(num_columns):
            squares[a * num_columns + b] = np.square(vectors[a] + vectors[num_rows + b]).sum()
    for n in range(words.size):
        if words[n] < 0:
            costs[n] = 0.0
            continue
        for a in range(num_rows):
            for b in range(num_columns):
                m = a * num_columns + b
                costs[n, m] = squares[m] - (products[n, a] + products[n, num_rows + b])


@njit(nogil=True)
def exchange_in_chains(costs, words, places):
    """Let words exchange cells at lower costs; count the chains of words that do.

    Each word in turn starts a chain: it takes the cell of a second word, which takes the cell of a
    third, and so on; the last one takes the cell of the first. The next word of a chain is the one
    with which the chain costs least if it ends there. Of all beginnings of the chain, the one that
    lowers the costs most is carried out.

    Args:
        costs: `(N, N)` float32, the costs of the words of the cells in all cells.
        words: `(N,)`, the word of each cell, `EMPTY` or `FIXED`.
        places: `(N,)`, overwritten by the cell that the word of each cell takes.

    Reference:
        Lin and Kernighan, "An effective heuristic algorithm for the traveling-salesman problem",
        Operations Research 21, 1973.
    """
    size = len(costs)
    here = np.empty(size, np.float32)  # the costs of the words where they are
    is_taken = np.empty(size, np.bool_)
    chain = np.empty(_LONGEST_CHAIN, np.int64)
    for n in range(size):
        places[n] = n
        here[n] = costs[n, n]
        is_taken[n] = words[n] == FIXED
    num_chains = 0
    for first in range(size):
        if words[first] < 0:
            continue
        end = places[first]
        chain[0] = last = first
        is_taken[first] = True
        length, best_length = 1, 0
        # Changes of the costs: of all words of the chain but the last, and of a closed chain.
        change = best_change = np.float32(0.0)
        magnitude = abs(here[first])
        while length < _LONGEST_CHAIN:
            least = np.float32(np.inf)
            following = -1
            for n in range(size):
                cost = costs[last, places[n]] + costs[n, end] - here[n]
                if cost < least and not is_taken[n]:
                    least = cost
                    following = n
            if following < 0:
                break
            closed = change + least - here[last]
            change += costs[last, places[following]] - here[last]
            magnitude += abs(here[following])
            last = chain[length] = following
            is_taken[following] = True
            length += 1
            if closed < best_change - _ROUNDING * magnitude:
                best_change = closed
                best_length = length
            if change >= best_change:  # what the chain has gained is lost
                break
        for n in chain[:length]:
            is_taken[n] = False
        if best_length == 0:
            continue
        num_chains += 1
        for k in range(best_length):
            n = chain[k]
            places[n] = end if k == best_length - 1 else places[chain[k + 1]]
            here[n] = costs[n, places[n]]
    return num_chains


@njit(nogil=True)
def exchange_in_blocks(
    first_block, last_block, row_order, row_borders, column_order, column_borders,
    features, row_vectors, column_vectors, words,
):  # fmt: skip
    """Let the words of each block exchange cells, at lower costs; count the chains that do.

    Args:
        first_block, last_block: Integers. Blocks are numbered row by row; these are the first and
            the first not to visit.
        row_order: `(R,)`. The rows `row_order[row_borders[p]:row_borders[p + 1]]` and
        column_order: `(C,)`, columns likewise, form a block.
        row_borders, column_borders: the borders of blocks in the two orders.
        features: `(V, F)` float32.
        row_vectors, column_vectors: `(R, F)` and `(C, F)` float32.
        words: `(R, C)`, the word in each cell, `EMPTY` or `FIXED`. Changed.
    """
    num_blocks_a_row = column_borders.size - 1
    num_chains = 0
    for block in range(first_block, last_block):
        p, q = block // num_blocks_a_row, block % num_blocks_a_row
        rows = row_order[row_borders[p] : row_borders[p + 1]]
        columns = column_order[column_borders[q] : column_borders[q + 1]]
        size = rows.size * columns.size
        here = np.empty(size, words.dtype)
        for n in range(size):
            here[n] = words[rows[n // columns.size], columns[n % columns.size]]
        if here.max() < 0:
            continue
        vectors = np.concatenate((row_vectors[rows], column_vectors[columns]))
        costs = np.empty((size, size), np.float32)
        _fill_costs(features, here, vectors, rows.size, costs)
        places = np.empty(size, np.int32)
        num_here = exchange_in_chains(costs, here, places)
        if num_here:
            num_chains += num_here
            for n in range(size):
                m = places[n]
                words[rows[m // columns.size], columns[m % columns.size]] = here[n]
    return num_chains
