"""The search inside a graph finds what the search outside finds."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_lightrnn import Allocation
from keras_lightrnn.layers import TwoComponentSoftmax
from keras_lightrnn.search import graph_rows, graph_tables, tensorflow_operations
from keras_lightrnn.search.graph_rows import GraphTable, find_best_cells, find_ranks
from keras_lightrnn.search.graph_search import find_best_words
from keras_lightrnn.search.layer_search import search_states

V, H = 23, 5
TABLES = [Allocation.random(V, 5, 6, seed=0), Allocation.random(V, 6, 4, seed=1)]


def make_layer(rng, num_tables=1, scale=1.0, **kwargs):
    layer = TwoComponentSoftmax(TABLES[:num_tables], row_reader="gated", **kwargs)
    layer.build((None, H))
    for weight in layer.trainable_weights:
        weight.assign(scale * rng.normal(size=weight.shape))
    return layer


@pytest.mark.parametrize(
    ("num_tables", "arguments"),
    [
        (1, {}),
        (1, {"mask_zero": True, "word_bias": "trainable", "word_dim": 2}),
        (1, {"num_components": 3, "word_bias": "counts"}),
        (2, {"mask_zero": True, "word_dim": 2}),
        (2, {"num_components": 2, "word_bias": "trainable"}),
    ],
    ids=["one", "with words' own weights", "mixture", "two tables", "two mixtures"],
)
def test_equals_the_search_outside(rng, num_tables, arguments):
    layer = make_layer(rng, num_tables, **arguments)

    @tf.function(autograph=False, reduce_retracing=True)
    def find(states, excluded):
        return [*find_best_words(layer, states, 4), *find_best_words(layer, states, 5, excluded)]

    find = find.get_concrete_function(
        tf.TensorSpec((None, H)), tf.TensorSpec((None, None), tf.int32)
    )
    for size in (1, 70):  # one block, and several
        states = rng.normal(size=(size, H)).astype("float32")
        excluded = rng.integers(-1, V, size=(size, 7)).astype("int32")
        found = [x.numpy() for x in find(tf.constant(states), tf.constant(excluded))]
        expected = [*search_states(layer, states).best_words(4)]
        search = search_states(layer, states)
        search.exclude(excluded)
        expected += search.best_words(5)
        for received, wanted in zip(found, expected, strict=True):
            if wanted.dtype == np.int32:
                assert received.tolist() == wanted.tolist()
            else:
                assert received == pytest.approx(wanted, abs=2e-5)


BIG = 990
BIG_TABLES = [
    Allocation.random(BIG, *shape, seed=seed)
    for seed, shape in enumerate([(100, 10), (110, 9), (99, 10)])
]


def make_big_layer(rng, num_tables, row_scale, scale, **kwargs):
    """Return a softmax of tables that have enough rows for a bound to pay."""
    layer = TwoComponentSoftmax(BIG_TABLES[:num_tables], row_reader="gated", **kwargs)
    layer.build((None, H))
    for weight in layer.trainable_weights:
        factor = row_scale if "row_kernel" in weight.path else scale
        weight.assign(factor * rng.normal(size=weight.shape))
    return layer


@pytest.mark.parametrize(
    ("num_tables", "arguments"),
    [(2, {"mask_zero": True, "word_dim": 2}), (3, {"num_components": 2, "word_bias": "trainable"})],
    ids=["two tables", "three mixtures"],
)
def test_some_rows_of_several_tables(rng, num_tables, arguments, monkeypatch):
    layer = make_big_layer(rng, num_tables, 9.0, 1.0, **arguments)
    monkeypatch.setattr(graph_tables, "_LARGEST_SHARE", 1 / 4)
    states = rng.normal(size=(12, H)).astype("float32")
    best, _ = layer.next_words(states, k=2)
    excluded = np.concatenate([best, rng.integers(-1, BIG, size=(12, 3))], axis=1).astype("int32")
    expected, expected_log_probs = layer.next_words(states, k=5, excluded=excluded)
    is_found, compute_all_cells = [], graph_tables._compute_all_cells

    def fail(*args):
        raise LookupError  # all words would be computed

    for i in range(len(states)):
        text = slice(i, i + 1)
        monkeypatch.setattr(graph_tables, "_compute_all_cells", fail)
        try:
            found = find_best_words(layer, states[text], 5, excluded[text])
            is_found.append(True)
        except LookupError:
            monkeypatch.setattr(graph_tables, "_compute_all_cells", compute_all_cells)
            found = find_best_words(layer, states[text], 5, excluded[text])
            is_found.append(False)
        assert np.asarray(found[0]).tolist() == expected[text].tolist()
        assert np.asarray(found[1]) == pytest.approx(expected_log_probs[text], abs=2e-5)
    assert np.mean(is_found) > 0.5


def test_no_word_is_found_twice_where_every_excluded_word_is_expanded(rng, monkeypatch):
    monkeypatch.setattr(graph_tables, "_LARGEST_SHARE", 1 / 4)
    layer = make_big_layer(rng, 2, 9.0, 1.0)
    states = rng.normal(size=(100, H)).astype("float32")
    excluded, _ = layer.next_words(states, k=1)
    expected, _ = layer.next_words(states, k=5, excluded=excluded)
    find = tf.function(lambda *x: find_best_words(layer, x[0], 5, x[1]), autograph=False)
    for i in range(
        len(states)
    ):  # one at a time, because a text whose bound is open decides for all
        words, _ = find(states[i : i + 1], excluded[i : i + 1].astype("int32"))
        assert words.numpy()[0].tolist() == expected[i].tolist()


def test_all_words_of_several_tables_if_the_bound_is_too_loose(rng, monkeypatch):
    monkeypatch.setattr(graph_tables, "_LARGEST_SHARE", 1 / 4)
    layer = make_big_layer(rng, 2, 0.1, 0.1)
    states = rng.normal(size=(3, H)).astype("float32")
    find = tf.function(lambda x: find_best_words(layer, x, 7), jit_compile=True, autograph=False)
    words, log_probs = (x.numpy() for x in find(states))
    expected, expected_log_probs = layer.next_words(states, k=7)
    assert log_probs == pytest.approx(expected_log_probs, abs=2e-5)
    assert words.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("scales", "expected"), [((0.1, 0.1), [2]), ((4.0, 1.0), [2, 8])], ids=["flat", "sharp"]
)
def test_more_rows_of_several_tables_are_expanded_if_there_is_hope(
    rng, monkeypatch, scales, expected
):
    sizes, find_likely_words = [], graph_tables._find_likely_words

    def record(ops, tables, word_tables, rows, *others):
        sizes.append(rows[0].shape[1])
        return find_likely_words(ops, tables, word_tables, rows, *others)

    monkeypatch.setattr(graph_tables, "list_sizes", lambda numbers: [2, 8])
    monkeypatch.setattr(graph_tables, "_find_likely_words", record)
    monkeypatch.setattr(graph_tables, "_HOPE", 0.5)  # rows have few words
    layer = make_big_layer(rng, 2, *scales)
    found = []
    for state in rng.normal(size=(12, H)).astype("float32"):
        sizes.clear()
        words, _ = find_best_words(layer, state[None], 2)
        assert np.asarray(words).tolist() == layer.next_words(state[None], k=2)[0].tolist()
        found.append(list(sizes))
    assert expected in found
    assert expected == [2, 8] or found == 12 * [expected]


def test_equal_words_in_other_rows(rng, monkeypatch):
    monkeypatch.setattr(graph_tables, "_LARGEST_SHARE", 1 / 4)
    layer = make_big_layer(rng, 2, 9.0, 1.0)
    for table in layer.list_tables():  # of each row, the words are alike
        for weight in (table.column_kernel, table.column_bias):
            weight.assign(0 * weight)
    states = rng.normal(size=(4, H)).astype("float32")
    words, log_probs = (np.asarray(x) for x in find_best_words(layer, states, 12))
    _, expected = layer.next_words(states, k=12)
    assert log_probs == pytest.approx(expected, abs=2e-5)
    is_tied = np.diff(log_probs) == 0
    assert (np.diff(words)[is_tied] > 0).all()


@pytest.mark.parametrize("num_tables", [1, 2])
def test_of_equal_words_the_lesser_ids(rng, num_tables):
    layer = make_layer(rng, num_tables, scale=0.0, use_bias=False)
    # Cells of one row have one probability.
    states = np.zeros((2, H), "float32")
    excluded = np.array([[-1, -1], [2, 5]], "int32")
    words, log_probs = (np.asarray(x) for x in find_best_words(layer, states, 6, excluded))
    every = np.exp(next(iter(all_words(layer, states[:1]))))
    for text in range(2):
        kept = np.setdiff1d(np.arange(V), excluded[text])
        order = kept[np.lexsort((kept, -every[kept].round(6)))][:6]
        assert words[text].tolist() == order.tolist()
        assert np.exp(log_probs[text]) == pytest.approx(every[order], rel=1e-5)


def all_words(layer, states):
    search = search_states(layer, states)
    words, log_probs = search.best_words(V)
    for of_text, values in zip(words, log_probs, strict=True):
        yield values[np.argsort(of_text)]


@pytest.mark.parametrize("num_tables", [1, 2])
def test_fewer_words_than_asked(rng, num_tables):
    layer = make_layer(rng, num_tables, mask_zero=True)
    states = rng.normal(size=(1, H)).astype("float32")
    excluded = np.arange(V - 3, dtype="int32")[None]
    words, log_probs = (np.asarray(x)[0] for x in find_best_words(layer, states, 5, excluded))
    assert sorted(words[:3]) == [V - 3, V - 2, V - 1]
    assert np.isfinite(log_probs[:3]).all()
    assert words[3:].tolist() == [-1, -1]
    assert np.isneginf(log_probs[3:]).all()


@pytest.mark.parametrize("num_tables", [1, 2])
def test_what_is_wrong_is_nan(rng, num_tables):
    layer = make_layer(rng, num_tables)
    states = rng.normal(size=(3, H)).astype("float32")
    states[0] = np.nan
    excluded = np.array([[-1], [V], [-2]], "int32")
    _, log_probs = find_best_words(layer, states, 3)
    assert np.isnan(log_probs).all(axis=1).tolist() == [True, False, False]
    _, log_probs = find_best_words(layer, states, 3, excluded)
    assert np.isnan(log_probs).all()


def test_impossible_words_are_last(rng):
    layer = make_layer(rng, word_bias="trainable")
    bias = rng.normal(size=V).astype("float32")
    bias[[3, 8]] = -np.inf
    layer.word_bias_values.assign(bias)
    words, log_probs = find_best_words(layer, rng.normal(size=(2, H)).astype("float32"), V)
    assert np.asarray(words)[:, -2:].tolist() == [[3, 8]] * 2
    assert np.isneginf(log_probs)[:, -2:].all()
    assert np.isfinite(log_probs)[:, :-2].all()


class CountedTable:
    """A table of given log-probabilities that counts the rows that are expanded."""

    def __init__(self, log_probs):
        self.log_probs = log_probs  # (B, R, C)
        self.num_sorted = self.num_alike = self.num_whole = 0

    def expand_all(self):
        self.num_whole += 1
        return ops.convert_to_tensor(self.log_probs)

    def expand(self, rows):
        self.num_sorted += rows.shape[1]
        return ops.take_along_axis(self._columns, ops.expand_dims(rows, -1), axis=1)

    def expand_alike(self, rows):
        self.num_alike += rows.shape[0]
        return ops.take(self._columns, rows, axis=1)

    @property
    def _columns(self):
        return ops.convert_to_tensor(self.log_probs - self._rows[..., None])

    @property
    def _rows(self):
        return np.logaddexp.reduce(self.log_probs, axis=2)

    def make(self):
        parts = self.expand, self.expand_all, lambda: self.expand_alike
        return GraphTable(self._rows, self.log_probs.shape[2], *parts)

    def find_best(self, k):
        cells, log_probs = find_best_cells(ops, self.make(), k)
        expected = np.sort(self.log_probs.reshape(len(cells), -1))[:, ::-1][:, :k]
        assert np.asarray(log_probs) == pytest.approx(expected, abs=1e-5)
        flat = self.log_probs.reshape(len(cells), -1)
        assert np.take_along_axis(flat, np.asarray(cells), 1) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("shape", "values"),
    [((90, 5), 10_000), ((5, 190), 10_000), ((90, 5), 40), ((5, 190), 40)],
    ids=["rows", "groups of cells", "rows, tied", "groups of cells, tied"],
)
@pytest.mark.parametrize("is_integer", [True, False])
def test_the_best_of_many_cells(rng, shape, values, is_integer):
    """Found by the maxima of groups. Of tied cells, the ones with lesser words come first."""
    size = shape[0] * shape[1]
    words = rng.permutation(size).astype("int32")
    joint = -1 - rng.integers(values, size=(3, *shape)).astype("float32")
    joint[1].ravel()[2:] = -np.inf  # fewer cells than are asked for
    rows = tf.zeros((3, shape[0]))
    table = GraphTable(rows, shape[1], None, lambda: tf.constant(joint), None)
    k = 3 if is_integer else tf.constant(3)
    cells, log_probs = find_best_cells(
        tensorflow_operations, table, k, None, lambda cells: tf.gather(words, cells)
    )
    order = np.lexsort([np.broadcast_to(words, (3, size)), -joint.reshape(3, -1)])[:, :3]
    expected = np.take_along_axis(joint.reshape(3, -1), order, axis=1)
    assert log_probs.numpy().tolist() == expected.tolist()
    assert cells.numpy().tolist() == np.where(np.isneginf(expected), -1, order).tolist()


def test_few_rows_are_expanded_if_the_bound_allows_it(rng, monkeypatch):
    monkeypatch.setattr(graph_rows, "FEW_CELLS", 0)
    logits = rng.normal(size=(2, 200, 9)) + 8 * rng.normal(size=(2, 200, 1))
    table = CountedTable(logits.astype("float32") - 40)
    table.find_best(k=5)
    assert (table.num_sorted, table.num_alike, table.num_whole) == (16, 0, 0)


@pytest.mark.parametrize(
    ("scale", "k", "expected"),
    [(8, 20, (16, 0, 0)), (8, 150, (16, 0, 1)), (2.2, 20, (64, 0, 0)), (0.5, 20, (0, 0, 1))],
    ids=["sharp", "more than these rows hold", "less sharp", "flat"],
)
def test_few_rows_of_a_small_table_are_tried_if_predictions_are_sharp(rng, scale, k, expected):
    logits = 0.1 * rng.normal(size=(1, 200, 9)) + scale * rng.normal(size=(1, 200, 1))
    table = CountedTable((logits - 40).astype("float32"))
    table.find_best(k)
    assert (table.num_sorted, table.num_alike, table.num_whole) == expected


@pytest.mark.parametrize(
    ("nats", "expected"), [(4.6, (80, 0, 0)), (0.4, (16, 0, 1))], ids=["few more", "most"]
)
def test_after_a_vain_attempt_more_rows_are_expanded_if_they_are_few(rng, nats, expected):
    """The best cells lie in 16 rows, but 60 rows, or all, are likelier than each of these cells.

    Then the first 64 rows are expanded, or all.
    """
    logits = 0.01 * rng.normal(size=(2, 200, 500))
    logits[:, :16] += 9
    logits[:, 16:60] += 4
    logits[:, 60:] += 4 - nats
    table = CountedTable((logits - 20).astype("float32"))
    table.find_best(k=5)
    assert (table.num_sorted, table.num_alike, table.num_whole) == expected


@pytest.mark.parametrize("is_compiled", [False, True])
def test_excluded_words_in_the_likeliest_rows_of_a_small_table(rng, is_compiled):
    layer = make_big_layer(rng, 1, 9.0, 1.0, mask_zero=True, word_dim=2, word_bias="trainable")
    states = rng.normal(size=(12, H)).astype("float32")
    best, _ = layer.next_words(states, k=4)
    excluded = np.concatenate([best, rng.integers(-1, BIG, size=(12, 3))], axis=1).astype("int32")
    expected, expected_log_probs = layer.next_words(states, k=6, excluded=excluded)
    find = tf.function(
        lambda *x: find_best_words(layer, x[0], 6, x[1]), jit_compile=is_compiled, autograph=False
    )
    for i in range(len(states)):
        words, log_probs = find(states[i : i + 1], excluded[i : i + 1])
        assert words.numpy()[0].tolist() == expected[i].tolist()
        assert log_probs.numpy()[0] == pytest.approx(expected_log_probs[i], abs=2e-5)


@pytest.mark.parametrize(("few_cells", "expected"), [(1800, (0, 0, 1)), (0, (16, 200, 0))])
def test_all_rows_are_expanded_if_it_does_not(rng, monkeypatch, few_cells, expected):
    monkeypatch.setattr(graph_rows, "FEW_CELLS", few_cells)
    logits = 0.1 * rng.normal(size=(2, 200, 9))
    table = CountedTable((logits - np.log(1800)).astype("float32"))
    table.find_best(k=5)
    # If the table is not small, a sixteenth of the rows, in steps of 16, before all.
    assert (table.num_sorted, table.num_alike, table.num_whole) == expected


@pytest.mark.parametrize(
    ("num_tables", "arguments"),
    [(1, {"mask_zero": True, "word_bias": "trainable"}), (1, {"num_components": 2}), (2, {})],
    ids=["one", "mixture", "two tables"],
)
def test_ranks_are_places_among_the_best(rng, num_tables, arguments):
    layer = make_layer(rng, num_tables, **arguments)
    most = V - layer.mask_zero
    states = rng.normal(size=(3, H)).astype("float32")
    words, _ = layer.next_words(states, k=most)
    # Of each word after each text, of states (B, T, H).
    repeated = np.repeat(states[:, None], most, axis=1)
    ranks = np.asarray(tf.function(layer.compute_ranks)(repeated, words))
    assert ranks.dtype == np.int32
    assert ranks.tolist() == [list(range(1, most + 1))] * 3
    # The first, third and fifth words do not count, and a target counts always.
    ranks = layer.compute_ranks(repeated[:, :8], words[:, :8], words[:, [0, 2, 4]])
    assert np.asarray(ranks).tolist() == [[1, 1, 2, 2, 3, 3, 4, 5]] * 3
    if layer.mask_zero:
        assert np.asarray(layer.compute_ranks(states, np.zeros(3, int))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("num_tables", [1, 2])
def test_ranks_of_equal_words_and_wrong_ids(rng, num_tables):
    layer = make_layer(rng, num_tables, scale=0.0, use_bias=False)
    words, _ = (np.asarray(x) for x in find_best_words(layer, np.zeros((1, H), "float32"), V))
    states = np.zeros((V, H), "float32")
    assert np.asarray(layer.compute_ranks(states, words[0])).tolist() == list(range(1, V + 1))
    states[0] = np.nan
    ranks = layer.compute_ranks(states[:4], [1, V, -1, 2], [[-1], [3], [3], [V]])
    assert np.asarray(ranks).tolist() == [-1] * 4


def test_ranks_of_flat_predictions(rng, monkeypatch):
    monkeypatch.setattr(graph_rows, "FEW_CELLS", 0)
    logits = 0.1 * rng.normal(size=(4, 200, 9))
    table = CountedTable((logits - np.log(1800)).astype("float32"))
    cells = np.array([0, 77, 900, 1799], "int32")
    flat = table.log_probs.reshape(4, -1)
    ranks, log_probs = find_ranks(ops, table.make(), cells)
    own = flat[np.arange(4), cells]
    assert np.asarray(log_probs) == pytest.approx(own, abs=1e-5)
    expected = 1 + (flat > own[:, None] + 1e-6).sum(axis=1)
    assert np.abs(np.asarray(ranks) - expected).max() <= 1
    assert table.num_alike == 200


def test_errors_of_ranks(rng):
    layer = make_layer(rng)
    with pytest.raises(ValueError, match="Ranks need a softmax with a row reader"):
        TwoComponentSoftmax(9, row_reader=None).compute_ranks(np.zeros((2, H)), [1, 2])
    with pytest.raises(ValueError, match=r"targets \(B,\) need states \(B, H\)"):
        layer.compute_ranks(np.zeros((2, 3, H)), [1, 2])
    with pytest.raises(ValueError, match=r"`excluded` must have the shape \(2, E\)"):
        layer.compute_ranks(np.zeros((2, H)), [1, 2], [1, 2])
