"""The table of words as a Keras layer."""

from __future__ import annotations

import base64
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.keras_internals import get_shared_objects, untrack
from keras_lightrnn._internal.shared_objects import (
    check_is_stored,
    get_shared_id,
    load_shared,
    serialize_shared,
)
from keras_lightrnn._internal.typing import Config, Shape, Tensor, WordIds
from keras_lightrnn.ops import cast_word_ids, invert_cells
from keras_lightrnn.ops.look_up import look_up
from keras_lightrnn.table.allocation import Allocation
from keras_lightrnn.table.linked_variable import DerivedVariable, LinkedVariable


@keras.saving.register_keras_serializable("keras_lightrnn")
class WordTable(keras.layers.Layer):
    """The `R x C` table that layers share. It owns one int32 weight, the cell of each word.

    Give one `WordTable` to every layer of a model. An allocation assigned to it takes effect
    in every compiled function at the next call.

    The table is saved as a weight. What `set_weights` gives it must be an allocation, too: a cell
    for each word, and for no other. Layers that share a table when a model is saved as a `.keras`
    file share one table in the model that `keras.saving.load_model` returns, as they do after
    `copy.deepcopy`. This holds for every layer whose config contains the table as
    `keras.saving.serialize_keras_object` returns it, and for a table that is itself a layer of a
    functional model.

    `keras.models.clone_model`, `from_config` and legacy `.h5` files make one table for each layer
    of a functional model, all with the same allocation, because Keras makes layer by layer.

    Args:
        allocation: `Allocation`; or integer vocabulary size `V` for
            `Allocation.by_frequency(V)`; or a dictionary as in the config of a table.
        **kwargs: `name` of the layer.

    Attributes:
        cells: `(V,)`, the cell of each word.
        words: `(R, C)`, the word in each cell, -1 in empty cells. It is computed from `cells`
            whenever these change, and is not a weight.

    Call arguments:
        words: Word ids `(...)`, integers in `[0, V)`.

    Returns:
        Cells `(...)`, int32: `row * num_columns + column`.

    Raises:
        TypeError: for what is neither an `Allocation` nor an integer.
        InvalidArgumentError, IndexError: for an id outside `[0, V)`, as the gather of the backend
            raises it. Compiled code (XLA, JAX) cannot raise; the layers of the package return NaN
            for such ids there.

    Example:

    >>> table = WordTable(Allocation([4, 0, 2], num_rows=2, num_columns=3))
    >>> np.asarray(table(np.array([0, 2]))).tolist()
    [4, 2]
    >>> table.assign(Allocation([0, 1, 2], num_rows=2, num_columns=3))
    >>> np.asarray(table(np.array([0, 2]))).tolist()
    [0, 2]

    A layer of your own that holds a table:

    >>> @keras.saving.register_keras_serializable("example")
    ... class RowNumber(keras.layers.Layer):
    ...     def __init__(self, word_table, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.word_table = word_table
    ...
    ...     def call(self, words):
    ...         return self.word_table(words) // self.word_table.num_columns
    ...
    ...     def get_config(self):
    ...         table = keras.saving.serialize_keras_object(self.word_table)
    ...         return {**super().get_config(), "word_table": table}
    ...
    ...     @classmethod
    ...     def from_config(cls, config):
    ...         table = keras.saving.deserialize_keras_object(config["word_table"])
    ...         return cls(**{**config, "word_table": table})
    >>> layer = RowNumber.from_config(RowNumber(table).get_config())
    >>> np.asarray(layer(np.array([0, 2]))).tolist()
    [0, 0]
    """

    def __init__(self, allocation: Allocation | int | Config, **kwargs: Any) -> None:
        kwargs.pop("dtype", None)  # cells are integers under every policy
        kwargs.pop("trainable", None)
        super().__init__(dtype="float32", trainable=False, **kwargs)
        if isinstance(allocation, dict):
            allocation = _read_allocation(allocation)
        elif not isinstance(allocation, Allocation):
            if not isinstance(allocation, (int, np.integer)):
                raise TypeError(
                    "A word table is made of an `Allocation` or an integer vocabulary size. "
                    f"Received: {allocation!r} (of type {type(allocation).__name__}). Wrap cells "
                    "as `Allocation(cells, R, C)`."
                )
            allocation = Allocation.by_frequency(allocation)
        self.autocast = False
        self.supports_masking = True
        self.vocabulary_size = allocation.vocabulary_size
        self.num_rows = allocation.num_rows
        self.num_columns = allocation.num_columns
        with keras.name_scope(self.name):
            self.cells = _Cells(allocation)
            self.words = DerivedVariable(
                lambda: invert_cells(self.cells, *self.table_shape),
                [self.cells],
                self.table_shape,
                "int32",
                "words",
            )
        untrack(self, self.words)
        self._refusal: ValueError | None = None  # the error of the cells in a file
        self.built = True

    @property
    def variables(self) -> list[keras.Variable]:
        return [*super().variables, self.words]

    def build(self, input_shape: Shape = None) -> None:
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
        # As a tensor, for an array would be checked once more.
        self.cells.assign(ops.convert_to_tensor(allocation.cells, "int32"))

    def call(self, words: WordIds) -> Tensor:
        words = cast_word_ids(words)
        if keras.backend.backend() != "tensorflow":
            # They count negative indices from the end; V is out of range.
            words = ops.where(words < 0, self.vocabulary_size, words)
        return look_up(self.cells, words)

    def compute_output_spec(self, words: WordIds) -> keras.KerasTensor:
        return keras.KerasTensor(words.shape, dtype="int32")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: `keras.Model.quantize` would silently skip the layers that hold a table."""
        raise ValueError(
            "The layers of keras_lightrnn cannot be quantized in place. Received: a call of "
            f"`quantize` on a model that has the word table {self.name!r}. Use "
            '`serving.export_litert(model, path, quantize="int8")` for a quantized file, or give '
            "`quantize` a `filters` argument that names the other layers."
        )

    def get_config(self) -> Config:
        allocation: Config = {
            "vocabulary_size": self.vocabulary_size,
            "num_rows": self.num_rows,
            "num_columns": self.num_columns,
        }
        # A file stores the cells as a weight: its JSON stays small for millions of words.
        if get_shared_objects() is None:
            cells = ops.convert_to_numpy(self.cells)
            if not np.array_equal(cells, np.arange(len(cells))):
                allocation["cells"] = base64.b64encode(cells.astype("<i4").tobytes()).decode()
        return {"name": self.name, "allocation": allocation, "shared_id": get_shared_id(self)}

    @classmethod
    def from_config(cls, config: Config) -> WordTable:
        return load_shared(config, lambda config: cls(**config))

    def load_own_variables(self, store: Any) -> None:
        if not store.keys() and self._refusal is not None:
            # Keras tries again for each layer that shares a table and shows the last error.
            raise self._refusal
        check_is_stored(self, store)
        try:
            # Checked before it is assigned, so that a damaged file leaves the table as it was.
            self.assign(Allocation(np.asarray(store["0"]), self.num_rows, self.num_columns))
        except ValueError as error:
            self._refusal = error
            raise
        self._refusal = None


class _Cells(LinkedVariable):
    """The cells of a table. Those of a NumPy array, as in `set_weights`, are checked."""

    def __init__(self, allocation: Allocation) -> None:
        self._table_shape = allocation.shape
        super().__init__(
            lambda shape, dtype: ops.convert_to_tensor(allocation.cells, dtype),
            allocation.cells.shape,
            "int32",
            "cells",
        )

    def assign(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            # A mean of the weights of several models is a mean of equal cells, in floats.
            if value.dtype.kind == "f" and np.array_equal(value, np.rint(value)):
                value = value.astype(np.int64)
            value = Allocation(value, *self._table_shape).cells
        return super().assign(value)


def get_word_table(word_table: Any) -> WordTable:
    """Return a `WordTable` from a table, its serialised form, or the argument of a new one.

    Example:

    >>> get_word_table(10).table_shape
    (3, 4)
    """
    if isinstance(word_table, WordTable):
        return word_table
    if isinstance(word_table, dict) and "class_name" in word_table:
        return keras.saving.deserialize_keras_object(word_table)
    return WordTable(word_table)


def _read_allocation(config: Config) -> Allocation:
    """Return the allocation that the config of a table describes."""
    config = dict(config)
    cells = config.pop("cells", None)
    if cells is None:
        return Allocation.by_frequency(**config)
    size = config.pop("vocabulary_size")
    cells = np.frombuffer(base64.b64decode(cells), "<i4")
    if len(cells) != size:
        raise ValueError(
            "The config of a table must hold one cell for each word. Received: "
            f"vocabulary_size={size} and {len(cells)} cells. The config is damaged."
        )
    return Allocation(cells, **config)


def get_word_tables(word_tables: Any) -> list[WordTable]:
    """Return the tables of a layer, from one or from a list of what `get_word_table` takes.

    Raises:
        ValueError: if the list is empty, or the tables hold different vocabularies.

    Example:

    >>> [table.table_shape for table in get_word_tables([10, Allocation.random(10, 2, 5)])]
    [(3, 4), (2, 5)]
    """
    if not isinstance(word_tables, (list, tuple)):
        return [get_word_table(word_tables)]
    if not word_tables:
        raise ValueError("A layer needs at least one word table. Received: an empty list.")
    tables = [get_word_table(table) for table in word_tables]
    sizes = [table.vocabulary_size for table in tables]
    if len(set(sizes)) != 1:
        raise ValueError(
            "Several tables must hold the same vocabulary. Received: word tables of "
            f"{sizes} words. Make their allocations for one vocabulary."
        )
    return tables


def serialize_word_tables(word_tables: list[WordTable]) -> Any:
    """Serialise the tables of a layer: one as `serialize_shared` does, several as a list."""
    configs = [serialize_shared(table) for table in word_tables]
    return configs[0] if len(configs) == 1 else configs
