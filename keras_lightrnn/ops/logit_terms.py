"""Terms that single words add to the column logits of their row."""

from __future__ import annotations

import abc

from keras import ops

from keras_lightrnn._internal.typing import Tensor, WordIds
from keras_lightrnn.ops.log_probs import EMPTY_CELL_LOGIT, compute_bias_table
from keras_lightrnn.ops.look_up import look_up_many, look_up_word_vectors, order_by_cell
from keras_lightrnn.ops.products import multiply_by_row


class LogitTerm(abc.ABC):
    """A number that a word adds to the column logit of its cell.

    A term has a weight with one entry for each word, and may have a query computed from the
    state. `TwoComponentSoftmax` sums the terms; the fused op differentiates them by hand, so a
    term states its gradient too. A subclass is stateless apart from `weight` and `queries`.

    Args:
        weight: `(V, ...)` float32, or `None`.
        queries: `(..., M, K)` float32, one query for each component; or `None`.
        is_trainable: Boolean, whether the weight gets a gradient.

    Example: a second bias, scaled.

    >>> import numpy as np
    >>> class ScaledTerm(LogitTerm):
    ...     @classmethod
    ...     def lay_out(cls, weight, words):
    ...         return ops.take(weight, ops.maximum(words, 0), axis=0)
    ...     @classmethod
    ...     def compute(cls, table, queries):
    ...         return 3.0 * ops.expand_dims(table, -2)
    ...     @classmethod
    ...     def differentiate(cls, d_logits, table, queries):
    ...         return 3.0 * ops.sum(d_logits, axis=1), None
    >>> term = ScaledTerm(np.float32([1.0, 2.0]))
    >>> table = term.lay_out(term.weight, np.int32([[1, 0]]))
    >>> np.asarray(term.compute(table, term.queries)).tolist()
    [[[6.0, 3.0]]]
    """

    def __init__(self, weight: Tensor, queries: Tensor = None, is_trainable: bool = True) -> None:
        self.weight = weight
        self.queries = queries
        self.is_trainable = is_trainable and weight is not None

    @classmethod
    @abc.abstractmethod
    def lay_out(cls, weight: Tensor, words: WordIds) -> Tensor:
        """Return the weights of the words in cells, `(..., C) -> (..., C, ...)`.

        Args:
            weight: `(V, ...)`, or `None`.
            words: `(..., C)` int32, -1 in empty cells.
        """

    @classmethod
    @abc.abstractmethod
    def compute(cls, table: Tensor, queries: Tensor) -> Tensor:
        """Return the logits, `(n, M, C)` or `(n, 1, C)`.

        Args:
            table: `(n, C, ...)`, rows of what `lay_out` returns.
            queries: `(n, M, K)` or `None`.
        """

    @classmethod
    @abc.abstractmethod
    def differentiate(
        cls, d_logits: Tensor, table: Tensor, queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of `table`, `(n, C, ...)`, and of `queries`, or `None`.

        Args:
            d_logits: `(n, M, C)`, the gradient of what `compute` returns.
            table: As in `compute`.
            queries: As in `compute`.
        """

    @classmethod
    def count_floats(cls, table: Tensor) -> int:
        """Return how many numbers one logit takes while it is computed."""
        return 1

    def compute_logits(self, words: WordIds, dtype: str = "float32") -> Tensor:
        """Return the logits of the words in cells, outside of the fused op.

        Args:
            words: `(..., C)` int32, -1 in empty cells.
            dtype: Dtype of the kernels, to which weights that meet queries are rounded.

        Returns:
            `(..., M, C)` or `(..., 1, C)`.
        """
        table = self.lay_out(self.weight, words)
        return self.compute(table if self.queries is None else _round(table, dtype), self.queries)

    def compute_all_logits(self, cells: Tensor, words: WordIds, dtype: str = "float32") -> Tensor:
        """Return the logits of the words in all cells, for queries `(B, R, M, K)` of all rows.

        Args:
            cells: `(V,)` int32, the cell of each word.
            words: `(R, C)` int32, the word in each cell, -1 in empty cells.
            dtype: As in `compute_logits`.

        Returns:
            `(B, R, M, C)`, or what broadcasts to it.
        """
        return self.compute_logits(words, dtype)


class BiasTerm(LogitTerm):
    """`bias[w]`, and `EMPTY_CELL_LOGIT` in empty cells.

    Args:
        weight: `(V,)` float32, or `None` for zeros.
        is_trainable: Boolean, whether the bias gets a gradient.

    Example:

    >>> import numpy as np
    >>> table = BiasTerm.lay_out(np.float32([1.0, 2.0]), np.int32([[1, 0]]))
    >>> np.asarray(BiasTerm.compute(table, None)).tolist()
    [[[2.0, 1.0]]]
    """

    def __init__(self, weight: Tensor, is_trainable: bool = True) -> None:
        super().__init__(weight, None, is_trainable)

    @classmethod
    def lay_out(cls, weight: Tensor, words: WordIds) -> Tensor:
        return compute_bias_table(weight, words)

    @classmethod
    def compute(cls, table: Tensor, queries: Tensor) -> Tensor:
        return ops.expand_dims(table, -2)

    @classmethod
    def differentiate(
        cls, d_logits: Tensor, table: Tensor, queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        return ops.sum(d_logits, axis=1), None

    def compute_all_logits(self, cells: Tensor, words: WordIds, dtype: str = "float32") -> Tensor:
        if self.weight is None:
            return self.compute_logits(words, dtype)
        table = ops.cast(order_by_cell(self.weight, cells, words), "float32")
        if cells.shape[0] < words.shape[0] * words.shape[1]:
            table = ops.where(words < 0, EMPTY_CELL_LOGIT, table)
        return ops.expand_dims(table, -2)


class VectorTerm(LogitTerm):
    """`queries · kernel[w]` for the words that have a vector.

    Args:
        weight: `(N, K)` float32, the vectors of the words `0 .. N - 1`.
        queries: `(..., M, K)` float32.

    Example:

    >>> import numpy as np
    >>> table = VectorTerm.lay_out(np.float32([[5], [7]]), np.int32([[1, 2, 0]]))
    >>> np.asarray(VectorTerm.compute(table, np.float32([[[10]]]))).tolist()
    [[[70.0, 0.0, 50.0]]]
    """

    def __init__(self, weight: Tensor, queries: Tensor) -> None:
        super().__init__(weight, queries)

    @classmethod
    def lay_out(cls, weight: Tensor, words: WordIds) -> Tensor:
        return look_up_word_vectors(weight, words)

    @classmethod
    def compute(cls, table: Tensor, queries: Tensor) -> Tensor:
        if queries.shape[-2] == 1:
            # Not a product of matrices: compiled, the look-up needs no memory then.
            return ops.expand_dims(ops.sum(table * queries, axis=-1), -2)
        return ops.matmul(queries, ops.swapaxes(table, -1, -2))

    @classmethod
    def differentiate(
        cls, d_logits: Tensor, table: Tensor, queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        columns = ops.swapaxes(d_logits, -1, -2)  # (n, C, M)
        # An outer product, for one component, which XLA computes faster by elements.
        multiply = ops.multiply if queries.shape[-2] == 1 else ops.matmul
        return multiply(columns, queries), ops.matmul(d_logits, table)

    @classmethod
    def count_floats(cls, table: Tensor) -> int:
        return table.shape[-1]

    def compute_logits(self, words: WordIds, dtype: str = "float32") -> Tensor:
        size = self.weight.shape[0]
        vectors = _round(look_up_many(self.weight, ops.clip(words, 0, size - 1)), dtype)
        logits = ops.matmul(self.queries, ops.swapaxes(vectors, -1, -2))  # (..., M, C)
        # There are fewer logits than numbers in the vectors, which `lay_out` sets to zero.
        has_vector = ops.logical_and(words >= 0, words < size)
        return ops.where(ops.expand_dims(has_vector, -2), logits, 0.0)

    def compute_all_logits(self, cells: Tensor, words: WordIds, dtype: str = "float32") -> Tensor:
        vectors = _round(order_by_cell(self.weight, cells, words), dtype)  # (R, C, K)
        return multiply_by_row(ops, self.queries, vectors)


def _round(x: Tensor, dtype: str) -> Tensor:
    return ops.cast(ops.cast(x, dtype), "float32")
