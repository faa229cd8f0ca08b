"""Several tables: words that share a row in one table are apart in the next."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from oracle import MixtureSoftmax, to_numpy
from weights_ways import WAYS, bring_weights

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.search import table_search
from keras_lightrnn.search.layer_search import search_states

V, H = 29, 5


def make_tables():
    cells = [np.random.default_rng(seed).permutation(36)[:V] for seed in (0, 1)]
    return [WordTable(Allocation(cells[0], 9, 4)), WordTable(Allocation(cells[1], 6, 6))]


def make_softmax(**kwargs):
    layer = TwoComponentSoftmax(make_tables(), row_reader="gated", **kwargs)
    layer.build((None, None, H), (None, None))
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    if layer.word_bias is not None:
        layer.assign_word_counts(np.arange(V) ** 2)
    return layer


def compute_exactly(layer, state):
    """The distribution of the words after a state, by the oracle of each table, `(V,)`."""
    weights = state @ to_numpy(layer.component_kernel) + to_numpy(layer.component_bias)
    weights = np.exp(weights) / np.exp(weights).sum()
    total = np.zeros(V)
    for index, table in enumerate(layer.list_tables()):
        oracle = MixtureSoftmax.of(table)
        oracle.component_kernel = None
        if layer.word_dim:
            oracle.parts.word_kernel = to_numpy(layer.word_kernel)
        for word in range(V):
            for k, query in enumerate(oracle.queries):
                one = MixtureSoftmax(oracle.parts, [query], oracle.row_gate, oracle.row_shift)
                weight = weights[index * layer.num_components + k]
                total[word] += weight * np.exp(one.compute_log_prob(state, word))
    return total


OPTIONS = [
    {},
    {"num_components": 2, "word_bias": "counts"},
    {"word_bias": "trainable", "word_dim": 2},
]


@pytest.mark.parametrize("arguments", OPTIONS, ids=str)
def test_equals_the_oracle_of_each_table(rng, arguments):
    layer = make_softmax(**arguments)
    state = rng.normal(size=H)
    expected = compute_exactly(layer, state)
    assert expected.sum() == pytest.approx(1)
    states = np.tile(state.astype("float32"), (1, V, 1))
    for fused in (False, True):
        log_probs = np.asarray(layer(states, np.arange(V)[None], fused=fused), float)
        assert np.exp(log_probs[0]) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    words, log_probs = layer.next_words(states[:, 0], k=7)
    assert words[0].tolist() == np.argsort(-expected, kind="stable")[:7].tolist()
    assert np.exp(log_probs[0]) == pytest.approx(expected[words[0]], rel=1e-4)


def test_words_have_one_bias_and_one_vector_for_all_tables():
    layer = make_softmax(word_bias="trainable", word_dim=2)
    names = [weight.name for weight in layer.weights]
    assert names.count("word_bias") == names.count("word_kernel") == 1
    assert layer.further_tables[0].word_bias_values is layer.word_bias_values


@pytest.mark.parametrize("combine", ["gate", "sum", "concat"])
def test_vectors_of_tables_add_up(rng, combine):
    layer = TwoComponentEmbedding(make_tables(), 3, combine)
    words = rng.integers(V, size=(2, 4))
    layer(words)
    parts = [np.asarray(part._combine(words)) for part in layer.list_tables()]
    assert np.asarray(layer(words)) == pytest.approx(parts[0] + parts[1], abs=1e-6)
    assert np.abs(parts[1]).max() > 0


def make_model(**kwargs):
    model = LightRNNModel(make_tables(), 4, H, row_reading="reader", **kwargs)
    model.build((None, None))
    rng = np.random.default_rng(2)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


PREFIX = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def model():
    return make_model(num_components=2, word_bias="trainable")


@pytest.mark.parametrize("first_rows", [1, 16])
def test_next_words_are_the_best_of_all_for_every_k(model, monkeypatch, first_rows):
    monkeypatch.setattr(table_search, "_FIRST_ROWS", first_rows)
    log_probs = model.word_log_probs(PREFIX)
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-5)
    order = np.argsort(-log_probs, kind="stable")
    for k in range(1, V + 1):
        words, found = model.next_words(PREFIX, k)
        assert words.tolist() == order[:k].tolist()
        assert found == pytest.approx(log_probs[words], abs=1e-5)


def test_scores_and_generation(model, rng):
    words = rng.integers(V, size=(3, 5))
    scores = model.score(words)
    for text, of_text in zip(words, scores, strict=True):
        assert model.word_log_probs(text[:-1])[text[-1]] == pytest.approx(of_text[-1], abs=1e-5)
    best = model.generate(PREFIX, 3, temperature=0)
    assert best[0] == np.argmax(model.word_log_probs(PREFIX))
    for options in ({}, {"top_p": 0.5}, {"top_k": 3}, {"temperature": 0.7}):
        assert model.generate([PREFIX] * 2, 4, seed=0, **options).shape == (2, 4)


def test_samples_at_temperature_one_follow_the_distribution(model):
    words = model.generate([PREFIX] * 2_000, 1, seed=0).ravel()
    expected = np.exp(model.word_log_probs(PREFIX))
    shares = np.bincount(words, minlength=V) / len(words)
    assert shares == pytest.approx(expected, abs=0.04)


def test_padding_is_never_answered():
    model = make_model(mask_zero=True)
    words, _ = model.next_words(PREFIX, V - 1)
    assert sorted(words) == list(range(1, V))
    assert (model.generate([PREFIX] * 300, 1, seed=0) != 0).all()


def test_few_rows_are_expanded(monkeypatch):
    model = make_model()
    for table in model.softmax.list_tables():
        table.row_bias.assign(40 * np.eye(table.word_table.num_rows)[2])
    rows = []
    expand = table_search._ExpandedRows.expand
    monkeypatch.setattr(table_search, "_FIRST_ROWS", 1)
    monkeypatch.setattr(
        table_search._ExpandedRows,
        "expand",
        lambda self, some: rows.extend(some) or expand(self, some),
    )
    model.next_words(PREFIX, 2)
    assert 2 <= len(rows) <= 6


def test_words_too_unlikely_for_a_float_are_found_in_order():
    layer = make_softmax()
    for weight in layer.trainable_weights:
        weight.assign(100 * to_numpy(weight))
    states = np.ones((1, H), "float32")
    expected = np.asarray(layer(np.tile(states, (V, 1)), np.arange(V), fused=False), float)
    assert expected.min() < np.log(np.finfo(float).tiny)
    words, log_probs = layer.next_words(states, k=V)
    assert words[0].tolist() == np.argsort(-expected, kind="stable").tolist()
    assert log_probs[0] == pytest.approx(expected[words[0]], rel=1e-5)
    [of_all] = search_states(layer, states).all_words()
    assert of_all == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_draws_without_the_words_that_have_nearly_all_probability(monkeypatch):
    layer = make_softmax(word_bias="counts")
    for weight in layer.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    counts = np.arange(1.0, V + 1)
    layer.assign_word_counts(np.where(np.arange(V) == 3, 1e12, counts))
    search = search_states(layer, np.ones((1, H), "float32"))
    search.exclude(np.array([[3]]))
    expand, num_rows = table_search._ExpandedRows.expand, []

    def expand_few(self, rows):
        num_rows.append(len(rows))
        assert sum(num_rows) < 5_000
        expand(self, rows)

    monkeypatch.setattr(table_search._ExpandedRows, "expand", expand_few)
    generator, found = np.random.default_rng(0), np.zeros(V)
    for _ in range(500):
        [(words, log_probs)] = search.sample_rows(generator, 1.0)
        found[words] += np.exp(log_probs - np.logaddexp.reduce(log_probs)) / 500
    expected = np.where(np.arange(V) == 3, 0, counts)
    assert found == pytest.approx(expected / expected.sum(), abs=0.02)


@pytest.mark.parametrize("way", ["keras", *WAYS])
def test_saved_and_loaded_with_both_tables(tmp_path, rng, model, way):
    windows = rng.integers(V, size=(3, 6))
    if way == "keras":
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    else:
        loaded = make_model(num_components=2, word_bias="trainable")
        for table in loaded.word_tables:
            table.assign(Allocation.random(V, *table.table_shape, seed=9))
        bring_weights(way, model, loaded, tmp_path)
    assert np.array_equal(loaded.score(windows), model.score(windows))
    for table, other in zip(loaded.word_tables, model.word_tables, strict=True):
        assert np.array_equal(table.allocation.cells, other.allocation.cells)
    assert loaded.embedding.further_tables[0].word_table is loaded.word_tables[1]
    assert loaded.softmax.further_tables[0].word_table is loaded.word_tables[1]


def test_training_lowers_the_loss(rng):
    model = LightRNNModel(make_tables(), 4, H, row_reading="reader")
    model.compile(keras.optimizers.Adam(0.05))
    windows = np.tile(np.arange(6), (32, 1)) + rng.integers(20, size=(32, 1))
    losses = model.fit(windows, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


def test_errors():
    tables = make_tables()
    with pytest.raises(ValueError, match="same vocabulary"):
        TwoComponentSoftmax([*tables, WordTable(V + 1)], row_reader="gated")
    with pytest.raises(ValueError, match=r"2 word table\(s\)"):
        TwoComponentSoftmax(tables, row_reader=None)
    with pytest.raises(ValueError, match=r"2 word table\(s\)"):
        LightRNNModel(tables, 4, 4, row_reading="recurrence")
    with pytest.raises(ValueError, match=r"of 9 and 6 rows, row_reader='own'"):
        TwoComponentSoftmax(tables, row_reader=keras.layers.Identity(name="own"))
    with pytest.raises(ValueError, match='combine="interleave"'):
        TwoComponentEmbedding(tables, 4, combine="interleave")
