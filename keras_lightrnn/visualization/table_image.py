"""A word table as an image."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import check_counts, check_size
from keras_lightrnn._internal.files import write_file
from keras_lightrnn.visualization.table_contents import COLOR_RAMP, get_allocation

_EMPTY_COLOR = (255, 255, 255)
_LEAST_SIDE = 800  # pixels, of an image whose `cell_size` is not given
_NUM_LEVELS = 255  # of darkness


def export_table_image(
    table: Any,
    path: str | os.PathLike[str],
    counts: Any = None,
    cell_size: int | None = None,
) -> None:
    """Write a PNG image of a table, with one square for each cell.

    The more often a word occurs, the darker is its square: darkness grows with `log(1 + count)`,
    from a pale tint for words that never occur. Empty cells are white. Row 0 is at the top and
    column 0 at the left. TensorFlow encodes the image.

    Args:
        table: `Allocation` or `WordTable`.
        path: Path of the file to write.
        counts: `(V,)` occurrences of each word. Defaults to `None`: word ids are in decreasing
            order of frequency, as those of `keras_lightrnn.data.Vocabulary` are, and word `w` is
            drawn as if its count were proportional to `1 / (w + 1)`.
        cell_size: Integer, the side of a cell in pixels. Defaults to `None`: the smallest size for
            which the longer side of the image has at least 800 pixels.

    Raises:
        TypeError: if `table` is neither an `Allocation` nor a `WordTable`.
        ValueError: if the counts do not fit the table, or the size is not positive.

    Example:

    >>> import tempfile
    >>> from keras_lightrnn import Allocation
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = os.path.join(directory, "table.png")
    ...     export_table_image(Allocation.random(1_000, seed=0), path)
    ...     with open(path, "rb") as file:
    ...         file.read(4)
    b'\\x89PNG'
    """
    allocation = get_allocation(table)
    size = allocation.vocabulary_size
    counts = size / np.arange(1, size + 1) if counts is None else check_counts(counts, size)
    if cell_size is None:
        cell_size = -(-_LEAST_SIDE // max(allocation.shape))
    check_size("cell_size", cell_size)

    shades = np.log1p(counts)
    shades = shades / (shades.max() or 1.0)  # (V,) in [0, 1]
    levels = np.zeros(allocation.num_cells, np.uint8)  # 0 where the cell is empty
    levels[allocation.cells] = 1 + np.rint(shades * (_NUM_LEVELS - 1)).astype(np.uint8)

    anchors = np.array(COLOR_RAMP, float)
    places = np.linspace(0, len(anchors) - 1, _NUM_LEVELS)
    ramp = [np.interp(places, np.arange(len(anchors)), channel) for channel in anchors.T]
    palette = np.concatenate([[_EMPTY_COLOR], np.rint(np.transpose(ramp))]).astype(np.uint8)
    squares = palette[levels.reshape(allocation.shape)]  # (R, C, 3)
    pixels = squares.repeat(cell_size, axis=0).repeat(cell_size, axis=1)
    import tensorflow as tf  # here, because importing it takes seconds

    write_file(path, tf.io.encode_png(pixels, compression=9).numpy())
