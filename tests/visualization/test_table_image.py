import struct

import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import Allocation, WordTable
from keras_lightrnn.visualization import export_table_image

# 2 x 3 cells, the last one of the first row empty.
ALLOCATION = Allocation([4, 0, 3, 1, 5], num_rows=2, num_columns=3)


def read(path):
    return tf.io.decode_png(path.read_bytes()).numpy()


def test_a_square_for_each_cell(tmp_path):
    path = tmp_path / "table.png"
    export_table_image(ALLOCATION, path, counts=[7, 0, 90, 1, 3], cell_size=4)
    image = read(path)
    assert image.shape == (2 * 4, 3 * 4, 3)
    squares = image.reshape(2, 4, 3, 4, 3).transpose(0, 2, 1, 3, 4).reshape(6, 16, 3)
    assert (squares == squares[:, :1]).all()
    colors = squares[:, 0].astype(int)  # (6, 3), one a cell
    assert colors[2].tolist() == [255, 255, 255]  # empty
    # Words in falling order of frequency; lightness as the eye weighs red, green and blue.
    cells = ALLOCATION.cells[[2, 0, 4, 3, 1]]
    lightness = colors @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness[cells]) > 5).all()
    assert lightness[cells[0]] < 40
    assert lightness[cells[-1]] < 245  # not as white as an empty cell


def test_equal_counts_are_equally_dark(tmp_path):
    export_table_image(ALLOCATION, tmp_path / "table.png", counts=[5, 5, 9, 5, 9], cell_size=1)
    colors = read(tmp_path / "table.png").reshape(-1, 3)[ALLOCATION.cells]
    assert len({tuple(color) for color in colors[[0, 1, 3]]}) == 1
    assert len({tuple(color) for color in colors}) == 2


def test_words_that_never_occur(tmp_path):
    export_table_image(ALLOCATION, tmp_path / "table.png", counts=np.zeros(5), cell_size=1)
    colors = read(tmp_path / "table.png").reshape(-1, 3)
    assert len({tuple(color) for color in colors[ALLOCATION.cells]}) == 1
    assert tuple(colors[2]) != tuple(colors[0])


def test_without_counts_ids_are_ranks(tmp_path):
    allocation = Allocation.random(400, seed=0)
    export_table_image(allocation, tmp_path / "ranks.png")
    image = read(tmp_path / "ranks.png")
    assert image.shape == (800, 800, 3)
    lightness = image[::40, ::40].reshape(-1, 3) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness[allocation.cells]) >= 0).all()


def test_large_tables_are_a_pixel_a_cell(tmp_path):
    allocation = Allocation.by_frequency(810_000)
    export_table_image(allocation, tmp_path / "large.png")
    assert read(tmp_path / "large.png").shape == (900, 900, 3)


def test_word_table(tmp_path):
    export_table_image(ALLOCATION, tmp_path / "one.png")
    export_table_image(WordTable(ALLOCATION), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"counts": [1, 2]}, r"each of 5 words.*counts.shape=\(2,\)"),
        ({"counts": [1, 2, 3, 4, -1]}, "not negative"),
        ({"counts": [1, 2, 3, 4, np.nan]}, "finite"),
        ({"cell_size": 0}, "cell_size=0"),
    ],
)
def test_bad_input(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_table_image(ALLOCATION, tmp_path / "table.png", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_table(tmp_path):
    with pytest.raises(TypeError, match="of type ndarray"):
        export_table_image(np.arange(4), tmp_path / "table.png")


def test_the_longer_side_has_800_pixels(tmp_path):
    export_table_image(Allocation.random(50_000, num_columns=1), tmp_path / "table.png")
    header = (tmp_path / "table.png").read_bytes()[16:24]
    assert struct.unpack(">II", header) == (1, 50_000)
