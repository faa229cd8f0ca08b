"""A word table as an image."""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any

import numpy as np

from keras_lightrnn._internal.checks import check_counts, check_size
from keras_lightrnn._internal.files import write_file
from keras_lightrnn.visualization.table_contents import (
    COLOR_RAMP,
    get_allocation,
)

_EMPTY_COLOR = (255, 255, 255)
_LEAST_SIDE = 800  # pixels, of an image whose `cell_size` is not given
_NUM_LEVELS = 255  # with the colour of empty cells, what a palette holds


def export_table_image(
    table: Any,
    path: str | os.PathLike[str],
    counts: Any = None,
    cell_size: int | None = None,
) -> None:
    """Write a PNG image of a table: a square for each cell, darker for more frequent words.

    The darkness grows with `log(1 + count)`, from a pale tint for words that never occur. Empty
    cells are white. Row 0 is at the top, column 0 at the left.

    Args:
        table: `Allocation` or `WordTable`.
        path: Path of the file to write.
        counts: `(V,)` occurrences of each word. `None` means that word ids are in falling order
            of frequency, as `keras_lightrnn.data.Vocabulary` makes them; word `w` is then drawn
            as if its count were in proportion to `1 / (w + 1)`.
        cell_size: Integer, pixels along a side of a cell. `None` takes the least with which the
            longer side of the image has 800 pixels.

    Raises:
        TypeError: if `table` is neither of the two.
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
    squares = levels.reshape(allocation.shape)  # (R, C)
    pixels = squares.repeat(cell_size, axis=0).repeat(cell_size, axis=1)

    anchors = np.array(COLOR_RAMP, float)
    places = np.linspace(0, len(anchors) - 1, _NUM_LEVELS)
    ramp = [np.interp(places, np.arange(len(anchors)), channel) for channel in anchors.T]
    palette = np.concatenate([[_EMPTY_COLOR], np.rint(np.transpose(ramp))]).astype(np.uint8)
    write_file(path, encode_png(pixels, palette))


def encode_png(pixels: np.ndarray, palette: np.ndarray) -> bytes:
    """Return an image with a palette as the bytes of a PNG file.

    Args:
        pixels: `(height, width)` uint8, places in the palette.
        palette: `(n, 3)` uint8, RGB, `n <= 256`.

    Example:

    >>> encode_png(np.zeros((2, 3), np.uint8), np.zeros((1, 3), np.uint8))[:4]
    b'\\x89PNG'

    Reference:
        [Portable Network Graphics (PNG) Specification](https://www.w3.org/TR/png/).
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    height, width = pixels.shape
    # Eight bits a pixel, colours from a palette, no interlacing; no filter before any line.
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    lines = np.zeros((height, 1 + width), np.uint8)
    lines[:, 1:] = pixels
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"PLTE", palette.tobytes()),
            chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            chunk(b"IEND", b""),
        )
    )
