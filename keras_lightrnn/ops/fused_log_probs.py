"""Log-probabilities of words from queries, and their gradient, in a bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from keras import ops

from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.ops.compiled_op import compile_op
from keras_lightrnn.ops.logit_terms import LogitTerm
from keras_lightrnn.ops.loops import scan
from keras_lightrnn.ops.products import multiply
from keras_lightrnn.ops.sums import add_rows

# Logits, and terms of them, that live at a time: 8 MB of float32.
_MAX_LOGITS = 2**21
# Probabilities that are kept for the backward pass, which would compute them again: 16 MB.
_MAX_KEPT = 2**22
# Inputs before those of the terms.
_NUM_INPUTS = 9


def compute_fused_log_probs(
    row_queries: Tensor,
    column_queries: Tensor,
    cells: Tensor,
    row_kernel: Tensor,
    row_bias: Tensor,
    column_kernel: Tensor,
    column_bias: Tensor,
    words: WordIds = None,
    word_cells: Tensor = None,
    terms: Sequence[LogitTerm] = (),
) -> Tensor:
    """Return `log P(row) + log P(column | row)` of words, for each component of a mixture.

    Equal to `compute_word_log_probs` of the logits `row_queries · row_kernel^T + row_bias` and
    `column_queries · column_kernel^T + column_bias + terms`. Logits live in chunks. Between the
    forward and the backward pass, the probabilities of all rows or columns are kept if they take
    16 MB at most and the size of the batch is known. Otherwise only their normalisers are kept,
    and the backward pass computes them again. On TensorFlow, XLA compiles the op wherever it is
    called from. TensorFlow and JAX only.

    Args:
        row_queries: `(..., M, H)`, one for each component: they predict rows.
        column_queries: `(..., M, H)`, queries that have read the row: they predict columns.
        cells: `(...)` int32, the cells of the words predicted.
        row_kernel: `(R, H)`. Products use the dtype of the kernels; sums, logits and biases are
            float32.
        row_bias: `(R,)`.
        column_kernel: `(C, H)`.
        column_bias: `(C,)`.
        words: `(R, C)` int32, the word in each cell, -1 in empty cells. Needed with `terms`.
        word_cells: `(V,)` int32, the cell of each word. Needed with `terms`.
        terms: Terms that words add to the column logits. A table with empty cells needs a
            `BiasTerm`, which leaves these no probability.

    Returns:
        `(..., M)` float32, in nats. Differentiable once, by all inputs that are not integers.

    Example:

    >>> import numpy as np
    >>> zeros, queries = np.zeros((4, 3), "float32"), np.ones((1, 1, 3), "float32")
    >>> log_probs = compute_fused_log_probs(
    ...     queries, queries, np.int32([7]), zeros, zeros[:, 0], zeros, zeros[:, 0]
    ... )
    >>> round(float(np.exp(log_probs[0, 0])), 4)
    0.0625
    """
    inputs = [row_queries, column_queries, cells]
    inputs += [row_kernel, row_bias, column_kernel, column_bias, words, word_cells]
    for term in terms:
        inputs += [term.weight, term.queries]
    return _run(inputs, tuple((type(term), term.is_trainable) for term in terms))[0]


class _Words(NamedTuple):
    """The predicted words, as one side sees them; the last fields may be missing.

    Attributes:
        queries: `(N, M, H)`.
        classes: `(N,)` int32, their rows or columns.
        places: `(N,)` int32, the numbers of their rows among the rows that occur.
        term_queries: Of each term, `(N, M, K)` or `None`.
    """

    queries: Tensor
    classes: Tensor
    places: Tensor = None
    term_queries: Any = ()


class _Weights(NamedTuple):
    """The weights of one side.

    Attributes:
        kernel: `(R, H)` or `(C, H)`.
        bias: `(R,)` or `(C,)`.
        tables: Of each term, its weights for the words in the rows that occur, `(n, C, ...)`.
        kinds: Of each term, its class.
        are_trainable: Of each term, whether its table gets a gradient.
    """

    kernel: Tensor
    bias: Tensor
    tables: Any = ()
    kinds: Any = ()
    are_trainable: Any = ()


def _forward(inputs: list[Tensor], kinds: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Return log-probabilities; and what each side keeps for `_backward_side`."""
    (row_log_probs, *row_kept), (log_probs, *kept) = (
        _forward_side(*side) for side in _get_sides(inputs, kinds)
    )
    log_probs = ops.reshape(row_log_probs + log_probs, ops.shape(inputs[0])[:-1])
    return [log_probs], [row_kept, kept]


def _backward(
    inputs: list[Tensor],
    kept: list[list[Tensor]],
    upstream: list[Tensor],
    kinds: tuple[Any, ...],
) -> list[Tensor]:
    """Return the gradients of the inputs."""
    row_side, column_side = _get_sides(inputs, kinds)
    upstream = ops.reshape(upstream[0], (-1, inputs[0].shape[-2]))  # (N, M)
    d_row_queries, _, d_row_kernel, d_row_bias, _ = _backward_side(*row_side, kept[0], upstream)
    d_queries, d_term_queries, d_kernel, d_bias, d_tables = _backward_side(
        *column_side, kept[1], upstream
    )
    gradients = [d_row_queries, d_queries, None]
    gradients += [d_row_kernel, d_row_bias, d_kernel, d_bias, None, None]
    for index, (d_table, d_queries) in enumerate(zip(d_tables, d_term_queries, strict=True)):
        weight = inputs[_NUM_INPUTS + 2 * index]
        d_weight = None
        if d_table is not None:
            d_weight = _collect(d_table, inputs, inputs[8][: weight.shape[0]])
        gradients += [d_weight, d_queries]
    return [
        None if d is None else ops.cast(ops.reshape(d, ops.shape(x)), x.dtype)
        for d, x in zip(gradients, inputs, strict=True)
    ]


_run = compile_op(_forward, _backward)


def _number_rows(rows: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Number the rows that occur in `rows`, `(N,)`: no others need be laid out.

    Returns:
        The number of each row, -1 if it does not occur, `(R,)`; and the rows by number, one more
        than may occur, `(min(R, N + 1),)`: a replica's share of a batch may be empty, and a
        look-up needs an entry.
    """
    occurs = ops.segment_sum(ops.ones_like(rows), rows, num_rows) > 0  # (R,)
    numbers = ops.cumsum(ops.cast(occurs, "int32")) - 1
    chosen = ops.where(occurs, ops.arange(num_rows, dtype="int32"), 0)
    chosen = ops.segment_sum(chosen, ops.maximum(numbers, 0), num_rows)
    return ops.where(occurs, numbers, -1), chosen[: ops.shape(rows)[0] + 1]


def _collect(gradients: Tensor, inputs: list[Tensor], cells: Tensor) -> Tensor:
    """Return gradients of the words in `cells`, zero where their row is not laid out.

    Args:
        gradients: `(n, C, ...)`, by the numbers of the rows.
        inputs: Those of `_forward`.
        cells: `(N,)`.
    """
    num_rows, num_columns = inputs[7].shape
    places, _ = _number_rows(ops.reshape(inputs[2], (-1,)) // num_columns, num_rows)
    places = ops.take(places, cells // num_columns)  # (N,)
    flat = ops.reshape(gradients, (-1, *gradients.shape[2:]))  # (n C, ...)
    found = ops.take(flat, ops.maximum(places, 0) * num_columns + cells % num_columns, axis=0)
    is_found = ops.reshape(places >= 0, (-1, *[1] * (len(flat.shape) - 1)))
    return ops.where(is_found, found, 0.0)


def _get_sides(inputs: list[Tensor], kinds: tuple[Any, ...]) -> list[tuple[_Words, _Weights]]:
    """Return the words and weights of the row softmax, and those of the column softmax."""
    row_queries, column_queries, cells, row_kernel, row_bias, column_kernel, column_bias = inputs[
        :7
    ]
    words = inputs[7]
    num_columns = column_kernel.shape[0]
    row_queries, column_queries = (
        ops.reshape(x, (-1, *x.shape[-2:])) for x in (row_queries, column_queries)
    )  # (N, M, H) each
    cells = ops.reshape(cells, (-1,))
    rows, columns = cells // num_columns, cells % num_columns
    places = None
    tables, term_queries = [], []
    if kinds:
        numbers, chosen = _number_rows(rows, row_kernel.shape[0])
        places = ops.take(numbers, rows)
        words_of_rows = ops.take(words, chosen, axis=0)  # (n, C)
        for index, (kind, _) in enumerate(kinds):
            weight, queries = inputs[_NUM_INPUTS + 2 * index :][:2]
            table = kind.lay_out(weight, words_of_rows)
            if queries is not None:
                queries = ops.cast(ops.reshape(queries, (-1, *queries.shape[-2:])), "float32")
                # Rounded as the kernels are.
                table = ops.cast(ops.cast(table, column_kernel.dtype), "float32")
            tables.append(table)
            term_queries.append(queries)
    term_kinds, are_trainable = zip(*kinds, strict=True) if kinds else ((), ())
    return [
        (_Words(row_queries, rows), _Weights(row_kernel, row_bias)),
        (
            _Words(column_queries, columns, places, term_queries),
            _Weights(column_kernel, column_bias, tables, term_kinds, are_trainable),
        ),
    ]


def _keeps_probabilities(words: _Words, weights: _Weights) -> bool:
    """Return whether the probabilities are few enough to keep them for the backward pass."""
    size, num_components, _ = words.queries.shape
    return size is not None and size * num_components * weights.kernel.shape[0] <= _MAX_KEPT


def _forward_side(words: _Words, weights: _Weights) -> list[Tensor]:
    """Return log-probabilities, `(N, M)`, and what the backward pass needs.

    That is the probabilities, `(N, M, C)`, or, if these are many, the largest logits and the logs
    of the normalisers above those, `(N, M)` each.
    """
    keeps_probabilities = _keeps_probabilities(words, weights)

    def step(carry: list[Tensor], present: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        here = _unpack(words, present)
        logits = _compute_logits(here, weights)
        largest = ops.max(logits, axis=-1)
        shares = ops.exp(logits - largest[..., None])
        total = ops.sum(shares, axis=-1)
        log_total = ops.log(total)
        picked = ops.sum(ops.where(_is_class(here, weights), logits, 0.0), axis=-1)
        kept = [shares / total[..., None]] if keeps_probabilities else [largest, log_total]
        return carry, [(picked - largest) - log_total, *kept]

    num_components = words.queries.shape[1]
    each = (None, num_components)
    kept = [(*each, weights.kernel.shape[0])] if keeps_probabilities else [each, each]
    _, outputs = scan(step, [], _split(_pack(words), words, weights), [each, *kept])
    size = ops.shape(words.classes)[0]
    return [ops.reshape(y, (-1, *y.shape[2:]))[:size] for y in outputs]


def _backward_side(
    words: _Words, weights: _Weights, kept: list[Tensor], upstream: Tensor
) -> tuple[Tensor, list[Tensor], Tensor, Tensor, list[Tensor]]:
    """Return the gradients of queries, of the terms' queries, of kernel, bias and tables.

    Args:
        words: The words.
        weights: The weights.
        kept: What `_forward_side` returns after the log-probabilities.
        upstream: `(N, M)`.
    """
    kernel = weights.kernel
    units, num_components = kernel.shape[1], words.queries.shape[1]

    def step(totals: list[Tensor], present: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        upstream, *present = present
        kept_here, present = present[: len(kept)], present[len(kept) :]
        here = _unpack(words, present)
        if len(kept) == 1:  # not asked again: a gradient may know sizes that its function did not
            [probabilities] = kept_here
        else:
            largest, log_total = kept_here
            logits = _compute_logits(here, weights)
            # Two differences: the sum of both would cost large logits their last digits.
            probabilities = ops.exp((logits - largest[..., None]) - log_total[..., None])
        is_class = ops.cast(_is_class(here, weights), "float32")
        d_logits = upstream[..., None] * (is_class - probabilities)
        factor = ops.cast(ops.reshape(d_logits, (-1, kernel.shape[0])), kernel.dtype)  # (n M, C)
        d_kernel, d_bias, *d_tables = totals
        queries = ops.cast(ops.reshape(here.queries, (-1, units)), kernel.dtype)
        d_kernel += multiply(ops.transpose(factor), queries)
        d_bias += ops.sum(d_logits, (0, 1))
        outputs = [ops.reshape(multiply(factor, kernel), (-1, num_components, units))]
        rest = iter(d_tables)
        d_tables = []
        for kind, is_trainable, table, queries in zip(
            weights.kinds, weights.are_trainable, weights.tables, here.term_queries, strict=True
        ):
            d_table, d_queries = kind.differentiate(
                d_logits, ops.take(table, here.places, axis=0), queries
            )
            if is_trainable:
                d_tables.append(add_rows(next(rest), here.places, d_table))
            if queries is not None:
                outputs.append(d_queries)
        return [d_kernel, d_bias, *d_tables], outputs

    pairs = zip(weights.tables, weights.are_trainable, strict=True)
    trained = [kernel, weights.bias, *(table for table, is_trained in pairs if is_trained)]
    totals = [ops.zeros(ops.shape(weight), "float32") for weight in trained]
    sizes = [units] + [q.shape[-1] for q in words.term_queries if q is not None]
    chunks = _split([upstream, *kept, *_pack(words)], words, weights)
    totals, outputs = scan(step, totals, chunks, [(None, num_components, size) for size in sizes])
    size = ops.shape(words.classes)[0]
    outputs = [ops.reshape(y, (-1, *y.shape[-2:]))[:size] for y in outputs]
    d_kernel, d_bias, *d_tables = totals
    rest, rest_of_queries = iter(d_tables), iter(outputs[1:])
    return (
        outputs[0],
        [None if q is None else next(rest_of_queries) for q in words.term_queries],
        d_kernel,
        d_bias,
        [next(rest) if is_trained else None for is_trained in weights.are_trainable],
    )


def _compute_logits(words: _Words, weights: _Weights) -> Tensor:
    """Return logits, `(n, M, C)`."""
    num_classes, units = weights.kernel.shape
    queries = ops.reshape(words.queries, (-1, units))  # one product of two matrices
    logits = multiply(queries, ops.transpose(weights.kernel))
    logits = ops.reshape(logits, (-1, words.queries.shape[1], num_classes))
    logits = logits + ops.cast(weights.bias, "float32")
    for kind, table, term_queries in zip(
        weights.kinds, weights.tables, words.term_queries, strict=True
    ):
        logits = logits + kind.compute(ops.take(table, words.places, axis=0), term_queries)
    return logits


def _is_class(words: _Words, weights: _Weights) -> Tensor:
    """Return which of the classes are those of the words, `(n, 1, C)`."""
    classes = ops.arange(weights.kernel.shape[0], dtype="int32")
    return classes == words.classes[:, None, None]


def _pack(words: _Words) -> list[Tensor]:
    values = [words.queries, words.classes, words.places, *words.term_queries]
    return [value for value in values if value is not None]


def _unpack(words: _Words, present: list[Tensor]) -> _Words:
    """Return a chunk of `words` from a chunk of what `_pack` returns."""
    rest = iter(present)
    fields = [
        None if value is None else next(rest)
        for value in (words.queries, words.classes, words.places, *words.term_queries)
    ]
    queries, classes, places, *term_queries = fields
    return _Words(queries, classes, places, term_queries)


def _split(arrays: list[Tensor], words: _Words, weights: _Weights) -> list[Tensor]:
    """Split the first axis of arrays, padded with zeros, into chunks of one size."""
    size = ops.shape(arrays[0])[0]
    # The numbers that a word takes: its logits, and the products that they are sums of.
    depth = max(
        [1, *(kind.count_floats(x) for kind, x in zip(weights.kinds, weights.tables, strict=True))]
    )
    logits = weights.kernel.shape[0] * depth * words.queries.shape[1]
    # At least one: a replica's share of a batch may be empty; XLA refuses a loop over nothing.
    # Divided and not multiplied by, for the product of the two may not fit into an int32.
    num_chunks = 1 + size // max(1, _MAX_LOGITS // logits)
    chunk = -(-size // num_chunks)
    chunks = []
    for array in arrays:
        padding = ops.zeros((num_chunks * chunk - size, *array.shape[1:]), array.dtype)
        padded = ops.concatenate([array, padding])
        chunks.append(ops.reshape(padded, (num_chunks, chunk, *array.shape[1:])))
    return chunks
