from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
from oracle import LanguageModel

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.search import predictor, scoring
from keras_lightrnn.search.predictor import (
    HalfStepPredictor,
    NetworkSearch,
    follow_words,
    read_prefixes,
)
from keras_lightrnn.search.prefixes import prepare_prefixes

V = 43  # more rows than are expanded at once, empty cells, an empty row
PREFIX = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    cells = np.random.default_rng(0).permutation(np.arange(3, 60))[:V]
    model = LightRNNModel(
        Allocation(cells, 20, 3),
        embedding_dim=5,
        units=6,
        recurrence="gru",
        num_layers=2,
        word_bias="trainable",
        word_dim=2,
        num_word_vectors=V - 9,
        row_reading="recurrence",
    )
    model.build((None, None))
    # Word kernels start at zero.
    model.softmax.word_kernel.assign(np.random.default_rng(1).normal(size=(V - 9, 2)))
    for weight in model.trainable_weights:
        weight.assign(3 * weight)
    model.assign_word_counts(np.arange(V, 0, -1))
    return model


@pytest.fixture(scope="module")
def distribution(model):
    return LanguageModel.of(model).compute_distribution(PREFIX)


def test_word_log_probs_equal_the_oracle(model, distribution):
    log_probs = model.word_log_probs(PREFIX)
    assert log_probs == pytest.approx(distribution, abs=5e-5)
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-5)


def test_score_equals_the_oracle_and_predict(model, rng):
    words = rng.integers(V, size=(5, 7))
    scores = model.score(words, batch_size=2)
    expected = [LanguageModel.of(model).compute_log_probs(row) for row in words]
    assert scores == pytest.approx(np.array(expected), abs=5e-5)
    assert scores == pytest.approx(model.predict(words, verbose=0), abs=1e-5)
    assert model.score(words[0]) == pytest.approx(scores[0], abs=1e-5)


def test_many_batches_are_scored_on_the_fused_recurrence(model, rng, monkeypatch):
    words = rng.integers(V, size=(5, 7))
    expected, shapes = model.score(words), []

    run = HalfStepPredictor.score_windows_fused

    def spy(self, words):
        shapes.append(tuple(words.shape))
        return run(self, words)

    monkeypatch.setattr(HalfStepPredictor, "score_windows_fused", spy)
    model.score(words, batch_size=2)
    assert shapes == []
    monkeypatch.setattr(scoring, "_MANY_BATCHES", 2)
    assert model.score(words, batch_size=2) == pytest.approx(expected, abs=1e-5)
    assert shapes == [(2, 7)]  # not of the one left over


def test_next_words_are_the_best_of_all_for_every_k(model, distribution):
    order = np.argsort(-distribution, kind="stable")
    # Words nearer than rounding may change places.
    assert -np.diff(distribution[order]).max() > 1e-4
    for k in range(1, V + 1):
        words, log_probs = model.next_words(PREFIX, k)
        assert words.tolist() == order[:k].tolist()
        assert log_probs == pytest.approx(distribution[order[:k]], abs=5e-5)


@pytest.mark.parametrize("k", [1, 6, V])
def test_batches_of_prefixes_are_prefixes(model, rng, k, monkeypatch):
    monkeypatch.setattr(scoring, "_TEXTS_AT_ONCE", 3)
    prefixes = rng.integers(V, size=(7, 4))
    words, log_probs = model.next_words(prefixes, k)
    distributions = model.word_log_probs(prefixes)
    assert words.shape == log_probs.shape == (7, k)
    for i, prefix in enumerate(prefixes):
        one_words, one_log_probs = model.next_words(prefix, k)
        assert words[i].tolist() == one_words.tolist()
        assert log_probs[i] == pytest.approx(one_log_probs, abs=5e-5)
        assert distributions[i] == pytest.approx(model.word_log_probs(prefix), abs=5e-5)


def test_many_rows_are_expanded_in_several_calls(model, distribution, monkeypatch):
    monkeypatch.setattr(predictor, "_SIZES", (1, 3))
    assert model.word_log_probs(PREFIX) == pytest.approx(distribution, abs=5e-5)
    assert model.next_words([PREFIX, PREFIX[::-1]], 3)[0].tolist() == [
        np.argsort(-LanguageModel.of(model).compute_distribution(prefix))[:3].tolist()
        for prefix in (PREFIX, PREFIX[::-1])
    ]


def test_a_prefix_of_one_word(model):
    expected = LanguageModel.of(model).compute_distribution([7])
    assert model.word_log_probs([7]) == pytest.approx(expected, abs=5e-5)


def test_search_sees_an_assigned_table(model, distribution):
    before = model.word_table.allocation
    try:
        model.word_table.assign(Allocation.random(V, 20, 3, seed=9))
        after = LanguageModel.of(model).compute_distribution(PREFIX)
        assert model.word_log_probs(PREFIX) == pytest.approx(after, abs=5e-5)
        assert model.next_words(PREFIX, 3)[0].tolist() == np.argsort(-after)[:3].tolist()
        assert np.abs(after - distribution).max() > 0.1
    finally:
        model.word_table.assign(before)


def test_search_sees_an_assigned_word_bias(model, distribution):
    before = np.array(model.softmax.word_bias_values)
    try:
        assert model.word_log_probs(PREFIX) == pytest.approx(distribution, abs=5e-5)
        model.assign_word_counts(np.arange(1, V + 1))
        after = LanguageModel.of(model).compute_distribution(PREFIX)
        assert model.word_log_probs(PREFIX) == pytest.approx(after, abs=5e-5)
        assert np.abs(after - distribution).max() > 0.1
    finally:
        model.softmax.word_bias_values.assign(before)


def test_a_search_goes_by_the_row_offsets_of_its_start(model, monkeypatch):
    found = follow_words(read(model, [PREFIX]), np.int32([3]))
    monkeypatch.setattr(model.softmax, "compute_row_offsets", None)
    [offsets] = follow_words(found, np.int32([7])).context[-1]
    assert offsets.shape == (20,)


def read(model, prefixes):
    """Return the search after prefixes."""
    return read_prefixes(model._get_predictor(), prepare_prefixes(model.softmax, prefixes, None))


def make_spy(function, calls):
    @functools.wraps(function)
    def spy(*args, **options):
        calls.append(function.__name__)
        return function(*args, **options)

    return spy


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("arguments", [{}, {"word_bias": "trainable", "mask_zero": True}])
def test_one_trace_serves_for_all_sizes(arguments, monkeypatch, rng):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow traces")
    model = LightRNNModel(V, 4, 4, num_layers=2, **arguments, row_reading="recurrence")
    model.build((None, None))
    traces = []
    for name in ("read_prefixes", "read_words", "expand_rows"):
        function = getattr(HalfStepPredictor, name)

        monkeypatch.setattr(HalfStepPredictor, name, make_spy(function, traces))
    for batch_size, length in ((1, 3), (2, 4), (5, 1), (1, 1)):
        prefixes = rng.integers(V, size=(batch_size, length))
        for k in (1, V - 1):
            model.next_words(prefixes, k)
        model.generate(prefixes, 3, temperature=0.5, seed=0)
    assert sorted(traces) == ["expand_rows", "read_prefixes", "read_words"]


def count_expanded(monkeypatch):
    """Return a list that grows by how many rows each search looks at."""
    counts, read_columns = [], NetworkSearch.read_columns
    monkeypatch.setattr(
        NetworkSearch,
        "read_columns",
        lambda self, texts, rows: counts.append(len(rows)) or read_columns(self, texts, rows),
    )
    return counts


def test_a_search_looks_at_few_rows(monkeypatch):
    # One row has nearly all of the probability: nobody need look at the others.
    keras.utils.set_random_seed(0)
    model = LightRNNModel(
        10_000, embedding_dim=4, units=4, recurrence="rnn", row_reading="recurrence"
    )
    model.build((None, None))
    model.softmax.row_bias.assign(np.eye(100, dtype="float32")[42] * 30)
    one, two = (read(model, n * [[1, 2, 3]]) for n in (1, 2))
    num_expanded = count_expanded(monkeypatch)
    words, _ = one.best_words(10)
    assert num_expanded == [16]
    assert (model.word_table.allocation.rows[words] == 42).all()
    assert two.best_words(10)[0].tolist() == 2 * words.tolist()
    assert num_expanded == [16, 8]


@pytest.mark.parametrize("recurrence", ["lstm", "gru", "rnn"])
def test_searches_pass_over_padding_as_scores_do(recurrence):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(
        11, 5, 6, num_layers=2, recurrence=recurrence, mask_zero=True, row_reading="recurrence"
    )
    model.build((None, None))
    for prefix in ([3, 0, 5], [0, 3, 0, 0, 5], [3, 5, 0]):
        log_probs = model.word_log_probs(prefix)
        expected = [model.score([*prefix, word])[-1] for word in range(1, 11)]
        assert log_probs[1:] == pytest.approx(expected, abs=1e-5)
        followed = read(model, [prefix[:1]])
        for word in prefix[1:]:
            followed = follow_words(followed, np.int32([word]))
        assert next(followed.all_words())[1:] == pytest.approx(log_probs[1:], abs=1e-5)
        assert next(followed.all_words())[0] == -np.inf  # padding is never answered


# Sampling.


@pytest.mark.parametrize("temperature", [0.9, 1.0, 1.1])
def test_sampling_looks_at_few_rows(temperature, monkeypatch):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(
        10_000, embedding_dim=4, units=4, recurrence="rnn", row_reading="recurrence"
    )
    model.build((None, None))
    found = read(model, [[1, 2, 3]])
    num_expanded = count_expanded(monkeypatch)
    found.sample_rows(np.random.default_rng(0), temperature)
    assert 1 <= sum(num_expanded) <= 48


def test_temperature_zero_is_the_chain_of_best_words(model):
    sampled = model.generate(PREFIX, length=4, temperature=0)
    text = list(PREFIX)
    for word in sampled:
        assert word == np.argmax(LanguageModel.of(model).compute_distribution(text))
        text.append(int(word))
    assert sampled.dtype == np.int32


def test_the_least_temperatures_overflow_nothing(model):
    best = model.generate(PREFIX, length=4, temperature=0).tolist()
    assert model.generate(PREFIX, length=4, temperature=1e-300, seed=0).tolist() == best


OPTIONS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.8},
    {"top_k": 5},
    {"top_p": 0.6},
    {"temperature": 1.5, "top_k": 7, "top_p": 0.8},
    {"temperature": 0.8, "top_p": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_seeds_repeat(model, options):
    first = model.generate(PREFIX, length=6, seed=1, **options)
    assert first.shape == (6,)
    assert first.tolist() == model.generate(PREFIX, length=6, seed=1, **options).tolist()
    others = [model.generate(PREFIX, length=6, seed=s, **options).tolist() for s in (2, 3, 4)]
    assert any(other != first.tolist() for other in others)


def truncate(log_probs, temperature=1.0, top_k=None, top_p=None):
    """The distribution that `generate` promises to sample from, `(V,)`."""
    probabilities = np.exp(log_probs / temperature)
    order = np.argsort(-probabilities)
    if top_k is not None:
        probabilities[order[top_k:]] = 0
    probabilities /= probabilities.sum()
    if top_p is not None:
        reached = np.cumsum(probabilities[order])
        size = next(i for i, total in enumerate(reached) if total >= top_p) + 1
        probabilities[order[size:]] = 0
    return probabilities / probabilities.sum()


def assert_follows(samples, expected):
    frequencies = np.bincount(samples, minlength=V) / len(samples)
    assert (frequencies[expected == 0] == 0).all(), "a word from outside of the set"
    # Five standard deviations of each word's frequency. A rare word that is drawn once among few
    # samples is more of them away: it may come once.
    deviation = np.sqrt(expected * (1 - expected) / len(samples))
    slack = np.where(expected * len(samples) < 1, max(1 / len(samples), 1e-3), 1e-3)
    assert (np.abs(frequencies - expected) <= 5 * deviation + slack).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_samples_follow_the_truncated_distribution(model, distribution, options):
    samples = [
        int(model.generate(PREFIX, length=1, seed=seed, **options)[0]) for seed in range(400)
    ]
    assert_follows(samples, truncate(distribution, **options))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_samples_of_a_batch_follow_the_distribution_of_each(model, options):
    prefixes = [PREFIX, PREFIX[::-1]]
    samples = model.generate(200 * prefixes, length=2, seed=0, **options)
    assert samples.shape == (400, 2)
    for place, prefix in enumerate(prefixes):
        of_prefix = samples[place::2]
        distribution = LanguageModel.of(model).compute_distribution(prefix)
        assert_follows(of_prefix[:, 0], truncate(distribution, **options))
        # The second words, where the first is the most frequent one.
        first = np.bincount(of_prefix[:, 0]).argmax()
        after = LanguageModel.of(model).compute_distribution([*prefix, first])
        assert_follows(of_prefix[of_prefix[:, 0] == first, 1], truncate(after, **options))


def test_the_best_continuations_of_a_batch_are_those_of_each(model, rng):
    prefixes = rng.integers(V, size=(5, 3))
    found = model.generate(prefixes, length=6, temperature=0)
    expected = [model.generate(prefix, length=6, temperature=0) for prefix in prefixes]
    assert found.tolist() == np.stack(expected).tolist()


@pytest.mark.parametrize(
    ("method", "arguments", "error", "message"),
    [
        ("score", {"words": [1]}, ValueError, r"at least 2 word.*\(1,\)"),
        ("score", {"words": [1, V]}, ValueError, rf"\[0, {V}\).*id {V}"),
        ("score", {"words": [1.0, 2.0]}, TypeError, "integer.*float64"),
        ("next_words", {"prefix": []}, ValueError, r"at least 1 word.*\(0,\)"),
        ("score", {"words": [1, 2], "batch_size": 0}, ValueError, "batch_size.*0"),
        ("next_words", {"prefix": [1], "k": 2.5}, ValueError, r"`k`.*integer.*k=2.5"),
        ("next_words", {"prefix": [1], "k": 0}, ValueError, rf"`k`.*\[1, {V}\].*k=0"),
        ("next_words", {"prefix": [1], "k": V + 1}, ValueError, rf"`k`.*\[1, {V}\]"),
        ("word_log_probs", {"prefix": [[[1]]]}, ValueError, r"\(1, 1, 1\)"),
        ("word_log_probs", {"prefix": [-1]}, ValueError, "id -1"),
        ("generate", {"prefix": [[[1]]]}, ValueError, r"\(1, 1, 1\)"),
        ("generate", {"prefix": [1], "length": 0}, ValueError, "length.*0"),
        ("generate", {"prefix": [1], "temperature": -1}, ValueError, "temperature.*-1"),
        ("generate", {"prefix": [1], "temperature": np.inf}, ValueError, "temperature.*inf"),
        ("generate", {"prefix": [1], "top_k": 0}, ValueError, "top_k.*0"),
        ("generate", {"prefix": [1], "top_p": 0.0}, ValueError, r"top_p.*\(0, 1\].*0.0"),
        ("generate", {"prefix": [1], "top_p": 1.1}, ValueError, "top_p.*1.1"),
    ],
)
def test_errors(model, method, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(model, method)(**arguments)


@pytest.mark.parametrize("method", ["next_words", "word_log_probs", "generate"])
@pytest.mark.parametrize("num_tables", [1, 2])
def test_a_model_that_has_diverged(method, num_tables):
    tables = [Allocation.random(V, seed=seed) for seed in range(num_tables)]
    row_reading = "recurrence" if num_tables == 1 else "reader"
    model = LightRNNModel(tables, 4, 4, row_reading=row_reading)
    model.build((None, None))
    last = model.softmax.list_tables()[-1]
    for kernel in (model.softmax.row_kernel, last.column_kernel):
        before = keras.ops.convert_to_numpy(kernel)
        kernel.assign(np.full((7, 4), np.nan))
        with pytest.raises(ValueError, match="computes NaN"):
            getattr(model, method)([1, 2])
        kernel.assign(before)
    assert getattr(model, method)([1, 2]) is not None


# Equal and impossible words.


@pytest.mark.parametrize("shape", [(100, 1), (100, 2)])
def test_of_equal_words_the_lesser_ids_come_first(shape):
    """Each row holds one word, which is as likely as its row; all rows are equal."""
    cells = np.arange(100)[::-1] * shape[1]
    model = LightRNNModel(
        Allocation(cells, *shape), embedding_dim=4, units=4, row_reading="recurrence"
    )
    model.build((None, None))
    for weight in model.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    assert model.next_words([1, 2], 3)[0].tolist() == [0, 1, 2]
    assert model.next_words([[1, 2], [3, 4]], 3)[0].tolist() == 2 * [[0, 1, 2]]
    for temperature in (1.0, 0.999):
        sampled = model.generate(
            50 * [[1, 2]], length=1, temperature=temperature, top_p=0.045, seed=0
        )
        assert set(sampled.ravel()) == set(range(5))


def test_impossible_words_of_several_tables_come_last():
    tables = [Allocation.random(V, seed=seed) for seed in range(2)]
    model = LightRNNModel(tables, 4, 4, word_bias="trainable")
    model.build((None, None))
    is_impossible = np.isin(tables[1].rows, [3])  # no word of this row is possible
    is_impossible[[5, 8]] = True
    model.softmax.word_bias_values.assign(np.where(is_impossible, -np.inf, 0))
    impossible = np.flatnonzero(is_impossible).tolist()
    assert np.flatnonzero(np.isneginf(model.word_log_probs([1, 2]))).tolist() == impossible
    words, log_probs = model.next_words([1, 2], V)
    assert words[-len(impossible) :].tolist() == impossible
    assert np.isneginf(log_probs[-len(impossible) :]).all()
    assert not np.isneginf(log_probs[: -len(impossible)]).any()


def test_words_that_are_impossible_come_last():
    model = LightRNNModel(
        V, embedding_dim=4, units=4, word_bias="trainable", row_reading="recurrence"
    )
    model.build((None, None))
    rows = model.word_table.allocation.rows
    row_bias, word_bias = np.zeros(model.word_table.num_rows), np.zeros(V)
    row_bias[2], word_bias[rows == 3] = -np.inf, -np.inf
    model.softmax.row_bias.assign(row_bias)
    model.softmax.word_bias_values.assign(word_bias)
    impossible = np.flatnonzero((rows == 2) | (rows == 3)).tolist()
    assert np.flatnonzero(np.isneginf(model.word_log_probs([1, 2]))).tolist() == impossible
    for prefix in ([1, 2], [[1, 2], [3, 4]]):
        words, log_probs = model.next_words(prefix, V)
        for some, values in zip(np.atleast_2d(words), np.atleast_2d(log_probs), strict=True):
            assert some[-len(impossible) :].tolist() == impossible
            assert sorted(some) == list(range(V))
            assert np.isneginf(values[-len(impossible) :]).all()
    for options in OPTIONS:
        assert not set(model.generate([1, 2], 50, seed=0, **options)) & set(impossible)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_in_low_precision_words_are_followed_as_prefixes_are_read(policy):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(
        V, embedding_dim=16, units=16, num_layers=2, dtype=policy, row_reading="recurrence"
    )
    model.build((None, None))
    for weight in model.trainable_weights:
        weight.assign(3 * weight)
    prefix = list(PREFIX)
    for word in model.generate(prefix, length=20, temperature=0):
        assert word == model.next_words(prefix, 1)[0][0]
        prefix.append(int(word))
