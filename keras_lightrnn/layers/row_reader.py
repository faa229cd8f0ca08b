"""Row readers: they make the prediction of a column depend on the row, without a network step."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.keras_internals import list_layers
from keras_lightrnn._internal.typing import Config, Dtype, Shape, Tensor
from keras_lightrnn.ops import cast_word_ids
from keras_lightrnn.ops.look_up import look_up


@keras.saving.register_keras_serializable("keras_lightrnn")
class GatedRowReader(keras.layers.Layer):
    """Read a row into a query by a gate and a shift, one vector of each for a row.

        column_query = query * (1 + row_gate[row]) + row_shift[row]

    `TwoComponentSoftmax` calls it with the queries that predicted the row and with the row, and
    predicts the column from the result. Any layer with these call arguments can take its place,
    for example a small network over `query` and an embedding of the row. Weights with one entry for
    each row must be listed by a property `row_weights`, so that they follow words that move.

    Before training the gates and shifts are zero, so the column does not depend on the row.

    Args:
        num_rows: Integer `R`.
        use_shift: Boolean, whether rows have a shift. Without it a row has one vector less.
        **kwargs: `name`, `dtype`, `trainable` as in every Keras layer.

    Call arguments:
        queries: `(..., M, H)`.
        rows: `(...)` int32 in `[0, R)`.

    Returns:
        Column queries `(..., M, H)`.

    Example:

    >>> import numpy as np
    >>> reader = GatedRowReader(num_rows=3)
    >>> queries = np.ones((2, 1, 4), "float32")
    >>> tuple(reader(queries, np.array([0, 2])).shape)
    (2, 1, 4)
    """

    def __init__(self, num_rows: int, use_shift: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.autocast = False  # rows must never be rounded to a float type
        self.num_rows = check_size("num_rows", num_rows)
        self.use_shift = use_shift

    def build(self, queries_shape: Shape, rows_shape: Shape = None) -> None:
        shape = (self.num_rows, queries_shape[-1])
        self.row_gate = self.add_weight(name="row_gate", shape=shape, initializer="zeros")
        self.row_shift = None
        if self.use_shift:
            self.row_shift = self.add_weight(name="row_shift", shape=shape, initializer="zeros")
        self.built = True

    @property
    def row_weights(self) -> list[keras.Variable]:
        """Weights with one entry for each row: they follow the words at a reallocation."""
        return [weight for weight in (self.row_gate, self.row_shift) if weight is not None]

    def call(self, queries: Tensor, rows: Tensor) -> Tensor:
        queries, rows = ops.cast(queries, self.compute_dtype), cast_word_ids(rows)
        queries = queries * (1 + self._look_up(self.row_gate, rows))
        if self.row_shift is None:
            return queries
        return queries + self._look_up(self.row_shift, rows)

    def _look_up(self, vectors: Tensor, rows: Tensor) -> Tensor:
        vectors = look_up(ops.cast(vectors, self.compute_dtype), rows)
        return ops.expand_dims(vectors, -2)  # (..., 1, H)

    def compute_output_shape(self, queries_shape: Shape, rows_shape: Shape) -> Shape:
        return tuple(queries_shape)

    def get_config(self) -> Config:
        return {**super().get_config(), "num_rows": self.num_rows, "use_shift": self.use_shift}


def serialize_row_reader(row_reader: Any) -> Any:
    """Serialise a row reader for the config of a layer, the same before and after it is built."""
    if row_reader is None:
        return None
    config = keras.saving.serialize_keras_object(row_reader)
    return {key: value for key, value in config.items() if key != "build_config"}


def get_row_reader(identifier: Any, num_rows: int, dtype: Dtype, trainable: bool) -> Any:
    """Return a row reader by name, from its configuration, or as it is; `None` for none.

    Args:
        identifier: The name, the configuration, the reader, or `None`.
        num_rows: Integer, the rows of the table.
        dtype: The dtype policy of a reader by name.
        trainable: Boolean, whether a reader by name is trained. Others have flags of their own.

    Raises:
        ValueError: if the name is unknown, or the reader has another number of rows.
        TypeError: if it is neither a name, a configuration nor a layer.
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    if isinstance(identifier, GatedRowReader) and identifier.num_rows != num_rows:
        raise ValueError(
            "A row reader must have the rows of the table. Received: "
            f"row_reader=GatedRowReader({identifier.num_rows}), a table of {num_rows} rows. Give "
            f'GatedRowReader({num_rows}), or row_reader="gated".'
        )
    if identifier is None:
        return None
    if isinstance(identifier, keras.layers.Layer):
        if not identifier.trainable:  # an argument of it, which does not reach the layers inside
            for layer in list_layers(identifier):
                layer.trainable = False
        return identifier
    is_name = isinstance(identifier, str)
    if is_name and identifier == "gated":
        return GatedRowReader(num_rows, dtype=dtype, trainable=trainable, name="row_reader")
    raise (ValueError if is_name else TypeError)(
        '`row_reader` must be "gated", None or a Keras layer. Received: '
        f"row_reader={identifier!r} (of type {type(identifier).__name__})."
    )
