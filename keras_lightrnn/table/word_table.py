"""The table of words as a Keras layer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn.ops import cast_word_ids, invert_cells
from keras_lightrnn.table.allocation import Allocation
from keras_lightrnn.table.linked_variable import DerivedVariable, LinkedVariable


@keras.saving.register_keras_serializable("keras_lightrnn")
class WordTable(keras.layers.Layer):
    """The `R x C` table that layers share: it owns one int32 weight, the cell of each word.

    Give one `WordTable` to every layer of a model. An allocation assigned to it takes effect
    in every compiled function at its next call. It is saved as a weight, and a saved model
    that shares a table between layers loads with one table.

    Args:
        allocation: An `Allocation`; or an integer vocabulary size `V` for
            `Allocation.by_frequency(V)`; or a dictionary with `vocabulary_size`, `num_rows`
            and `num_columns`, as `get_config` writes it.
        **kwargs: `name` of the layer.

    Attributes:
        cells: `(V,)`, the cell of each word.
        words: `(R, C)`, the word in each cell, -1 in empty ones. It follows from `cells`, however
            these are assigned, and is no weight.

    Call arguments:
        words: Word ids `(...)`, integers in `[0, V)`.

    Returns:
        Cells `(...)`, int32: `row * num_columns + column`.

    Raises:
        InvalidArgumentError, IndexError: for an id outside `[0, V)`, as the backend's gather
            raises it. Compiled code (XLA, JAX) cannot raise; the package's layers return NaN
            for such ids there.

    Example:

    >>> table = WordTable(Allocation([4, 0, 2], num_rows=2, num_columns=3))
    >>> np.asarray(table(np.array([0, 2]))).tolist()
    [4, 2]
    >>> table.assign(Allocation([0, 1, 2], num_rows=2, num_columns=3))
    >>> np.asarray(table(np.array([0, 2]))).tolist()
    [0, 2]
    """

    def __init__(self, allocation: Allocation | int | dict[str, int], **kwargs: Any) -> None:
        kwargs.pop("dtype", None)  # cells are integers under every policy
        kwargs.pop("trainable", None)
        super().__init__(dtype="float32", trainable=False, **kwargs)
        if isinstance(allocation, dict):
            allocation = Allocation.by_frequency(**allocation)
        elif not isinstance(allocation, Allocation):
            allocation = Allocation.by_frequency(allocation)
        self.autocast = False
        self.supports_masking = True
        self.vocabulary_size = allocation.vocabulary_size
        self.num_rows = allocation.num_rows
        self.num_columns = allocation.num_columns
        with keras.name_scope(self.name):
            self.cells = LinkedVariable(
                lambda shape, dtype: ops.convert_to_tensor(allocation.cells, dtype),
                (self.vocabulary_size,),
                "int32",
                "cells",
            )
            self.words = DerivedVariable(
                lambda: invert_cells(self.cells, *self.table_shape),
                [self.cells],
                self.table_shape,
                "int32",
                "words",
            )
        self._untrack_variable(self.words)
        self._refusal: ValueError | None = None  # of the cells that a file holds
        self.built = True

    @property
    def variables(self) -> list[Any]:
        return [*super().variables, self.words]

    def build(self, input_shape: Any = None) -> None:
        """The variable exists from the start: an allocation can be read and assigned at once."""

    @property
    def table_shape(self) -> tuple[int, int]:
        """Table shape `(R, C)`."""
        return self.num_rows, self.num_columns

    @property
    def allocation(self) -> Allocation:
        """The allocation that the table holds now, as an `Allocation`."""
        cells = keras.ops.convert_to_numpy(self.cells)
        return Allocation(cells, self.num_rows, self.num_columns)

    def assign(self, allocation: Allocation) -> None:
        """Install another allocation of the same words and table shape.

        Call it between steps (a callback does), never from inside a training step.

        Raises:
            ValueError: if the vocabulary size or the table shape differs.
        """
        if not isinstance(allocation, Allocation):
            raise TypeError(
                f"`allocation` must be an `Allocation`. Received: allocation={allocation!r} "
                f"(of type {type(allocation).__name__}). Wrap cells as `Allocation(cells, R, C)`."
            )
        received = (allocation.vocabulary_size, *allocation.shape)
        if received != (self.vocabulary_size, *self.table_shape):
            raise ValueError(
                "An allocation must fit the table that it is assigned to: vocabulary_size="
                f"{self.vocabulary_size}, num_rows={self.num_rows}, num_columns={self.num_columns}."
                f" Received: {allocation!r}. Make a new model for another vocabulary or shape."
            )
        self.cells.assign(allocation.cells)

    def call(self, words: Any) -> Any:
        words = cast_word_ids(words)
        # A gather would count negative ids from the end; V is out of range everywhere.
        words = ops.where(words < 0, self.vocabulary_size, words)
        return ops.take(self.cells, words, axis=0)

    def compute_output_spec(self, words: Any) -> keras.KerasTensor:
        return keras.KerasTensor(words.shape, dtype="int32")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: `keras.Model.quantize` would skip the layers that hold a table, in silence."""
        raise ValueError(
            "The layers of keras_lightrnn cannot be quantized in place. Received: a call of "
            f"`quantize` on a model that has the word table {self.name!r}. Use "
            '`serving.export_litert(model, path, quantize="int8")` for a quantized file, or give '
            "`quantize` a `filters` argument that names the other layers."
        )

    def get_config(self) -> dict[str, Any]:
        # The cells themselves travel as a weight: ten million of them are no business of JSON.
        return {
            "name": self.name,
            "allocation": {
                "vocabulary_size": self.vocabulary_size,
                "num_rows": self.num_rows,
                "num_columns": self.num_columns,
            },
        }

    def load_own_variables(self, store: Any) -> None:
        if "0" not in store.keys():  # noqa: SIM118, it is no dictionary
            if self._refusal is not None:
                # Keras comes again for each layer that shares a table, and shows the last error.
                raise self._refusal
            raise ValueError(
                "A table must be loaded from a file that holds one. Received: no cells for "
                f"{self.name!r}. The file is of a model whose layers share a table, and this one, "
                "made by `from_config`, `model_from_json` or `clone_model`, has one for each "
                "layer. Save and load the whole model as a `.keras` file."
            )
        try:
            # Checked before it is assigned, so that a damaged file leaves the table as it was.
            self.assign(Allocation(np.asarray(store["0"]), self.num_rows, self.num_columns))
        except ValueError as error:
            self._refusal = error
            raise
        self._refusal = None


def get_word_table(word_table: Any) -> WordTable:
    """Return a `WordTable` from one, from its serialised config, or from what makes one.

    Example:

    >>> get_word_table(10).table_shape
    (3, 4)
    """
    if isinstance(word_table, WordTable):
        return word_table
    if isinstance(word_table, dict) and "class_name" in word_table:
        return keras.saving.deserialize_keras_object(word_table)
    return WordTable(word_table)


def serialize_word_table(word_table: WordTable) -> dict[str, Any]:
    """Serialise a table for a layer's config so that layers that share it still do when loaded.

    Keras numbers shared objects only after it has copied the first config that holds one; an
    id of our own, the same in every config, makes the loaded layers meet again. Names would not do:
    those of an ensemble's tables are the same.
    """
    config = keras.saving.serialize_keras_object(word_table)
    config["shared_object_id"] = f"keras_lightrnn/{id(word_table)}"
    return config
