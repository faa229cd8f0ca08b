"""`LightRNNModel(row_reading="reader")`: one step a word."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from oracle import STEPS, MixtureSoftmax, to_numpy

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.layers import GatedRowReader
from keras_lightrnn.search.predictor import read_prefixes
from keras_lightrnn.search.prefixes import prepare_prefixes

V, T = 31, 5


def make(recurrence="lstm", **kwargs):
    """A model with distinct weights of some size, on a table with empty cells and an empty row."""
    cells = np.random.default_rng(0).permutation(np.arange(3, 42))[:V]
    arguments = {"num_layers": 2, "word_bias": "trainable", "word_dim": 2, **kwargs}
    model = LightRNNModel(
        Allocation(cells, 14, 3),
        embedding_dim=5,
        units=6,
        recurrence=recurrence,
        row_reading="reader",
        **arguments,
    )
    model.build((4 if kwargs.get("stateful") else None, T + 1))
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(0.7 * rng.normal(size=weight.shape))
    if model.word_bias is not None:
        model.assign_word_counts(np.arange(V) ** 2)
    return model


class Oracle:
    """The model read out into arrays, one word at a time in float64."""

    def __init__(self, model):
        self.softmax = MixtureSoftmax.of(model.softmax)
        self.embedding = model.embedding
        self.step, self.num_states = STEPS[model.recurrence]
        self.layers = [[to_numpy(w) for w in layer.weights] for layer in model.recurrent_layers]

    def embed(self, word):
        row, column = self.softmax.parts.place(word)
        layer = self.embedding
        x = to_numpy(layer.column_embeddings)[column] + to_numpy(layer.row_embeddings)[row]
        gated = to_numpy(layer.gated_embeddings)[column] * to_numpy(layer.input_gate)[row]
        pooled = gated.reshape(layer.gate_pool, -1).sum(axis=0)
        x = x + pooled @ to_numpy(layer.gate_projection)
        return x + to_numpy(layer.word_embeddings)[word] @ to_numpy(layer.word_projection)

    def read(self, words):
        states = [[np.zeros(w[1].shape[0])] * self.num_states for w in self.layers]
        for word in words:
            x = self.embed(word)
            for index, weights in enumerate(self.layers):
                states[index] = self.step(weights, x, states[index])
                x = states[index][0]
        return x

    def compute_distribution(self, prefix):
        state = self.read(prefix)
        return np.array([self.softmax.compute_log_prob(state, word) for word in range(V)])


@pytest.fixture(scope="module")
def model():
    return make("gru", num_components=3)


PREFIX = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def distribution(model):
    return Oracle(model).compute_distribution(PREFIX)


@pytest.mark.parametrize(("recurrence", "num_components"), [("lstm", 1), ("rnn", 2)])
def test_scores_equal_the_oracle(rng, recurrence, num_components):
    model = make(recurrence, num_components=num_components)
    words = rng.integers(V, size=(2, 4))
    oracle = Oracle(model)
    expected = [
        [oracle.compute_distribution(text[:t])[text[t]] for t in range(1, 4)] for text in words
    ]
    assert model.score(words) == pytest.approx(np.array(expected), abs=1e-4)
    assert model.predict(words, verbose=0) == pytest.approx(np.array(expected), abs=1e-4)


def test_the_distribution_equals_the_oracle(model, distribution):
    assert np.exp(distribution).sum() == pytest.approx(1)
    assert model.word_log_probs(PREFIX) == pytest.approx(distribution, abs=1e-4)


@pytest.mark.parametrize("k", [1, 7, V])
def test_next_words_are_the_best_of_all(model, distribution, k):
    words, log_probs = model.next_words([PREFIX, PREFIX], k)
    assert words.tolist() == 2 * [np.argsort(-distribution, kind="stable")[:k].tolist()]
    assert log_probs[0] == pytest.approx(distribution[words[0]], abs=1e-4)


def test_generation(model):
    sampled = model.generate(PREFIX, length=3, temperature=0)
    text = list(PREFIX)
    for word in sampled:
        assert word == np.argmax(model.word_log_probs(text))
        text.append(int(word))
    for options in ({"top_k": 3}, {"top_p": 0.8}, {"temperature": 0.7}, {"temperature": 1.4}):
        first = model.generate([PREFIX, PREFIX[::-1]], length=4, seed=0, **options)
        assert first.shape == (2, 4)
        assert np.array_equal(
            first, model.generate([PREFIX, PREFIX[::-1]], length=4, seed=0, **options)
        )


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_samples_follow_the_distribution(model, distribution, temperature):
    prefixes = prepare_prefixes(model.softmax, np.repeat([PREFIX], 64, axis=0), None)
    search = read_prefixes(model._get_predictor(), prefixes)
    generator = np.random.default_rng(0)
    counts = np.zeros(V)
    for _ in range(60):
        for words, log_probs in search.sample_rows(generator, temperature):
            weights = np.exp(log_probs / temperature)
            counts[words] += weights / weights.sum()  # the rest is drawn within the row
    expected = np.exp(distribution / temperature)
    expected /= expected.sum()
    assert counts / counts.sum() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    "arguments",
    [
        {"mask_zero": True, "num_components": 2, "word_dim": 0},
        {"recurrence": "gru", "word_bias": "counts", "word_dim": 0},
    ],
    ids=str,
)
def test_a_step_on_both_paths(rng, arguments):
    windows = rng.integers(1, V, size=(4, T + 1))
    if arguments.get("mask_zero"):
        windows[0, 3:] = 0
        windows[1, :2] = 0
    models = [make(recurrence_path=path, **arguments) for path in ("keras", "fused")]
    losses = []
    for model in models:
        model.compile(
            keras.optimizers.SGD(1.0), run_eagerly=model.recurrence_path == "keras"
        )  # the oracle needs no trace
        losses.append(model.fit(windows, batch_size=4, verbose=0).history["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for first, second in zip(*(m.trainable_variables for m in models), strict=True):
        assert np.asarray(second) == pytest.approx(np.asarray(first), rel=1e-4, abs=1e-5)


def test_padding_on_either_side_changes_nothing(rng):
    model = make(mask_zero=True)
    words = rng.integers(1, V, size=(1, 4))
    expected = model.score(words)
    for before, after in ((3, 0), (0, 3), (2, 1)):
        padded = np.pad(words, [(0, 0), (before, after)])
        scored = model.score(padded)[:, before : before + 3]
        assert scored == pytest.approx(expected, abs=1e-5)
    assert model.next_words(np.pad(words, [(0, 0), (2, 0)]), 5)[0].tolist() == (
        model.next_words(words, 5)[0].tolist()
    )


def test_a_stateful_model_carries_its_state(rng):
    model = make(stateful=True)
    text = rng.integers(V, size=(4, 2 * T + 1))
    model.compile()
    windows = np.concatenate([text[:, : T + 1], text[:, T:]])
    stateful = model.predict(windows, batch_size=4, verbose=0)
    expected = model.score(text)
    assert np.concatenate([stateful[:4], stateful[4:]], axis=1) == pytest.approx(expected, abs=1e-5)


def test_saved_and_loaded(rng, tmp_path, model):
    windows = rng.integers(V, size=(3, 6))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert (loaded.row_reading, loaded.num_components) == ("reader", 3)
    assert np.array_equal(loaded.score(windows), model.score(windows))


def test_another_row_reader(rng, tmp_path):
    allocation = Allocation.random(V, seed=0)
    reader = GatedRowReader(allocation.num_rows, use_shift=False)
    model = LightRNNModel(allocation, 4, 4, row_reading=reader)
    assert model.row_reading is reader
    model.compile("sgd", run_eagerly=True)  # a step needs no trace
    windows = rng.integers(V, size=(4, 6))
    model.fit(windows, verbose=0)
    assert model.softmax.row_reader.row_shift is None
    assert np.asarray(reader.row_gate).any()  # trained
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.row_reading, GatedRowReader)
    assert not loaded.row_reading.use_shift
    assert np.array_equal(loaded.score(windows), model.score(windows))
    assert (
        loaded.next_words(windows[0], k=3)[0].tolist()
        == model.next_words(windows[0], k=3)[0].tolist()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"row_reading": "gate"}, "Received: row_reading='gate'"),
        ({"num_components": 0}, "Received: num_components=0"),
        ({"row_reading": "recurrence"}, "A mixture needs a row reader.*num_components=2"),
        (
            {"row_reading": "recurrence", "num_components": 1, "gate_dim": 8},
            r"needs a network with one step a word\. Received: gate_dim=8",
        ),
        ({"gate_dim": 9}, r"gate_dim=9.*Give a multiple of 8, or"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    arguments = {"row_reading": "reader", "num_components": 2, **arguments}
    with pytest.raises(ValueError, match=message):
        LightRNNModel(V, 4, 4, **arguments)
