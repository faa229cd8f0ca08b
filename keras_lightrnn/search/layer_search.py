"""Search for words with a `TwoComponentSoftmax` behind any network."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_lightrnn.search.row_search import RowSearch

if TYPE_CHECKING:
    from keras_lightrnn.layers.two_component_softmax import TwoComponentSoftmax


class LayerSearch(RowSearch):
    """What a softmax says of the word after some texts, with a function that reads rows.

    Args:
        softmax: `TwoComponentSoftmax`, built.
        column_half_steps: `(B, H)`.
        read_rows: See `TwoComponentSoftmax.next_words`.
    """

    def __init__(
        self,
        softmax: TwoComponentSoftmax,
        column_half_steps: Any,
        read_rows: Callable[[np.ndarray, np.ndarray], Any],
    ) -> None:
        self.softmax, self.read_rows = softmax, read_rows
        if not softmax.built:
            raise ValueError(
                "A softmax must be built before it is searched. Received: a layer without weights. "
                "Train it, load it, or call it on a batch."
            )
        half_steps = self._check("column_half_steps", column_half_steps, None)
        logits = softmax.compute_row_logits(half_steps)
        num_columns = softmax.word_table.num_columns
        super().__init__(ops.convert_to_numpy(ops.log_softmax(logits)), num_columns)

    def compute_columns(self, texts: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        texts, rows = texts.astype(np.int32), rows.astype(np.int32)
        half_steps = self._check("read_rows(texts, rows)", self.read_rows(texts, rows), len(rows))
        rows = ops.convert_to_tensor(rows)
        logits = self.softmax.compute_column_logits(half_steps, rows)
        words = ops.take(self.softmax.word_table.words, rows, axis=0)
        return ops.convert_to_numpy(words), ops.convert_to_numpy(ops.log_softmax(logits))

    def _check(self, name: str, half_steps: Any, size: int | None) -> Any:
        half_steps = ops.convert_to_tensor(half_steps)
        units = self.softmax.row_kernel.shape[-1]
        shape = tuple(half_steps.shape)
        if len(shape) != 2 or shape[1] != units or size not in (None, shape[0]):
            number = "B" if size is None else size
            raise ValueError(
                f"`{name}` must be half-steps of shape ({number}, {units}), one for each text. "
                f"Received: shape {shape}. Of a sequence of half-steps, the last one predicts what "
                "follows."
            )
        return half_steps
