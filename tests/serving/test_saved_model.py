from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from exportable import MIXTURE, READER, C, R, V, make_cells, make_model
from served import Unsaved, call, decode, needs_c_api, run_c_api
from tensorflow.python.tools import saved_model_cli

from keras_lightrnn import LightRNNModel
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.search import graph_rows
from keras_lightrnn.serving import ServingLimits, export_saved_model, saved_model
from keras_lightrnn.serving import word_vectors as vectors_module

# Of unlike lengths, with unknown words, an empty one, and white space of every kind.
TEXTS = ["w3 w1 nobody", "", "東京", "naïve\u2003w2\x85w3\n\tw7 w7  ", "<eos> <unk> w38"]


@pytest.fixture(scope="module", params=["by_id", "by_cell"])
def directory(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def served(directory):
    return tf.saved_model.load(directory)


@pytest.fixture(scope="module")
def served_by_id(by_id):
    return tf.saved_model.load(by_id)


def read(vocabulary, text):
    """Return the words of a text after the end word, which is what the model reads."""
    return [vocabulary.end_id, *vocabulary.encode(text)[:-1]]


# What is answered.


def assert_scores(served, model, vocabulary, texts):
    answer = call(served, "score", text=texts)
    for i, text in enumerate(texts):
        expected = model.score([*read(vocabulary, text), vocabulary.end_id])
        size = len(expected)
        assert answer["num_words"][i] == size
        assert answer["log_probs"][i, :size] == pytest.approx(expected, abs=1e-4)
        assert (answer["log_probs"][i, size:] == 0).all()
        assert answer["total_log_prob"][i] == pytest.approx(expected.sum(), rel=1e-5)
        assert answer["perplexity"][i] == pytest.approx(np.exp(-expected.mean()), rel=1e-4)
        words = decode(answer["words"][i])
        assert " ".join(words[:size]) == vocabulary.decode(vocabulary.encode(text))
        assert set(words[size:]) <= {""}


def assert_next_words(served, model, vocabulary, texts, k):
    answer = call(served, "next_words", text=texts, k=k)
    assert answer["words"].shape == answer["log_probs"].shape == (len(texts), k)
    for i, text in enumerate(texts):
        words, log_probs = model.next_words(read(vocabulary, text), k)
        assert decode(answer["words"][i]) == [vocabulary.words[word] for word in words]
        assert answer["log_probs"][i] == pytest.approx(log_probs, abs=1e-4)


def test_scores_equal_the_models(served, model, vocabulary):
    assert_scores(served, model, vocabulary, TEXTS)


@pytest.mark.parametrize("k", [1, 5, V])
def test_next_words_equal_the_models(served, model, vocabulary, k):
    assert_next_words(served, model, vocabulary, TEXTS, k)


def assert_greedy_texts(served, model, vocabulary, texts):
    answer = call(served, "generate", text=texts, length=6, temperature=0, seed=0)
    for i, text in enumerate(texts):
        expected = model.generate(read(vocabulary, text), length=6, temperature=0)
        assert answer["text"][i].decode() == vocabulary.decode(expected)
        assert answer["text"][i] == b" ".join(answer["words"][i])


def test_greedy_texts_equal_the_models(served, model, vocabulary):
    assert_greedy_texts(served, model, vocabulary, TEXTS)


def assert_samples(served, model, vocabulary, temperature):
    prefix, num_samples = read(vocabulary, "w3 w1"), 20_000
    sampling = {"length": 2, "temperature": temperature, "seed": 7}
    answer = call(served, "generate", text=["w3 w1"] * num_samples, **sampling)
    ids = np.vectorize(lambda word: vocabulary.id_of(word.decode()))(answer["words"])

    def assert_frequencies(sampled, prefix):
        weights = np.exp(model.word_log_probs(prefix) / temperature)
        expected = weights / weights.sum()
        frequencies = np.bincount(sampled, minlength=V) / len(sampled)
        deviation = np.sqrt(expected * (1 - expected) / len(sampled))
        assert (np.abs(frequencies - expected) <= 5 * deviation + 1e-4).all()

    assert_frequencies(ids[:, 0], prefix)
    first = np.bincount(ids[:, 0]).argmax()
    assert_frequencies(ids[ids[:, 0] == first, 1], [*prefix, first])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_samples_follow_the_distribution(served_by_id, model, vocabulary, temperature):
    assert_samples(served_by_id, model, vocabulary, temperature)


def test_samples_follow_a_mixture(vocabulary, tmp_path):
    model = make_model(**MIXTURE)
    served = Unsaved(model, vocabulary, tmp_path, limits=ServingLimits(max_batch_size=20_000))
    for temperature in (0.5, 2.0):
        assert_samples(served, model, vocabulary, temperature)


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_any_temperature_gives_words(served_by_id, vocabulary, temperature):
    inputs = {"text": ["w3"] * 500, "length": 1, "seed": 0}
    answer = call(served_by_id, "generate", temperature=temperature, **inputs)
    words = {word.decode() for word in answer["words"][:, 0]}
    if temperature > 1:  # all are equally likely, and no empty cell is among them
        assert words == {*vocabulary.words}
    else:
        best = call(served_by_id, "generate", temperature=0, **inputs)
        assert words == {best["words"][0, 0].decode()}


def test_seeds_repeat_whatever_the_rest_of_the_batch(served_by_id):
    def generate(texts, seed):
        answer = call(served_by_id, "generate", text=texts, length=8, temperature=1.2, seed=seed)
        return decode(answer["text"])

    first = generate(["w3", "w3", ""], 1)
    assert first == generate(["w3", "w3", ""], 1)
    assert first[:1] == generate(["w3"], 1)
    assert len({*first[:2], *generate(["w3"], 2)}) == 3


def test_numbering_by_cell_changes_no_sample(model, vocabulary, by_id, by_cell):
    inputs = {"text": TEXTS, "length": 9, "temperature": 0.8, "seed": 5}
    answers = [call(tf.saved_model.load(path), "generate", **inputs) for path in (by_id, by_cell)]
    assert answers[0]["text"].tolist() == answers[1]["text"].tolist()
    # Line k of the vocabulary is the word in cell k, and what maps ids to cells is gone.
    lines = (by_cell / "assets" / "vocabulary.txt").read_text("utf-8").split("\n")[:-1]
    expected = [
        vocabulary.words[i] if i >= 0 else "" for i in model.word_table.allocation.words.flat
    ]
    assert [line if line.strip() == line else "" for line in lines] == expected

    def count_numbers(path):
        variables = tf.train.list_variables(str(path / "variables" / "variables"))
        return sum(int(np.prod(shape)) for name, shape in variables if "GRAPH" not in name)

    assert count_numbers(by_id) - count_numbers(by_cell) == V + R * C


@pytest.mark.parametrize("name", ["score_ids", "serving_default"])
def test_ids_are_scored(served, directory, model, rng, name):
    words = rng.integers(V, size=(3, 9))
    ids = words
    if (directory / "assets" / "vocabulary.txt").read_text("utf-8").count("\n") > V:
        ids = model.word_table.allocation.cells[words]
    answer = call(served, name, words=ids)
    assert answer["log_probs"] == pytest.approx(model.score(words), abs=1e-4)


@pytest.mark.parametrize("options", [READER, {**MIXTURE, "word_dim": 3, "mask_zero": True}])
def test_large_tables_are_searched_by_row(tmp_path, monkeypatch, options):
    for module in (graph_rows, vectors_module):
        monkeypatch.setattr(module, "FEW_CELLS", 0)
    model = make_model("gru", **options)
    size = model.word_table.vocabulary_size
    vocabulary = Vocabulary(["<pad>", *(f"w{i}" for i in range(size - 3)), "<unk>", "<eos>"])
    served = Unsaved(model, vocabulary, tmp_path)
    assert_next_words(served, model, vocabulary, ["w1 w2 w3 zzz", "w1"], k=5)


@pytest.mark.parametrize(
    ("recurrence", "options"),
    [
        # The carried state is no part of an export, and a mask none of word vectors.
        ("rnn", {"word_bias": None, "stateful": True, "cells": np.arange(R * C)}),
        (
            "gru",
            {
                "word_bias": "trainable",
                "num_layers": 1,
                "mask_zero": True,
                "word_dim": 2,
                "tie_word_vectors": False,
            },
        ),
        ("lstm", {"word_dim": 3, "num_word_vectors": V - 9}),
        ("lstm", READER),
        (
            "gru",
            {
                **READER,
                "word_bias": None,
                "cells": np.arange(R * C),
                "word_dim": 2,
                "tie_word_vectors": False,
            },
        ),
        ("gru", {**MIXTURE, "word_dim": 3, "num_word_vectors": V - 9}),
        ("rnn", {**MIXTURE, "word_bias": "trainable", "mask_zero": True}),
    ],
    ids=[
        "rnn-stateful-full-table",
        "gru-mask-word-vectors",
        "some-word-vectors",
        "reader",
        "reader-full-table-word-vectors",
        "mixture-some-word-vectors",
        "mixture-mask",
    ],
)
def test_every_kind_of_model(tmp_path, recurrence, options, rng):
    model = make_model(recurrence, **options)
    size = model.word_table.vocabulary_size
    vocabulary = Vocabulary(["<pad>", *(f"w{i}" for i in range(size - 3)), "<unk>", "<eos>"])
    served = tf.saved_model.load(export_saved_model(model, vocabulary, tmp_path))
    assert_scores(served, model, vocabulary, ["w1 w2 w3 zzz", "w1"])
    texts = ["w1 w2 w3 zzz", "w1 <pad> w3", "<pad> w2 <pad>"]
    assert_next_words(served, model, vocabulary, texts, k=size - model.mask_zero)
    assert_greedy_texts(served, model, vocabulary, texts)
    words = rng.integers(1, size, size=(2, 7))
    if model.mask_zero:  # padding is not read; its own log-probability means nothing
        words[:, 3] = 0
    answer = call(served, "score_ids", words=words)["log_probs"]
    counts = words[:, 1:] != 0
    assert answer[counts] == pytest.approx(model.score(words)[counts], abs=1e-4)


@pytest.mark.parametrize("options", [{}, MIXTURE], ids=["half-steps", "mixture"])
def test_padding_is_never_sampled(tmp_path, options):
    model = make_model(mask_zero=True, word_bias="trainable", **options)
    word_bias = np.zeros(V, np.float32)
    word_bias[0] = 9  # by itself, padding would be the likeliest word everywhere
    model.softmax.word_bias_values.assign(word_bias)
    vocabulary = Vocabulary(["<pad>", *(f"w{i}" for i in range(V - 3)), "<unk>", "<eos>"])
    served = Unsaved(model, vocabulary, tmp_path)
    assert_next_words(served, model, vocabulary, ["w1", ""], k=V - 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`k` must lie in \[1, 42\]"):
        call(served, "next_words", text=["w1"], k=V)
    for temperature in (0, 0.5, 1, 2):
        sampling = {"length": 4, "temperature": temperature, "seed": 0}
        words = call(served, "generate", text=["w1"] * 50, **sampling)["words"]
        assert b"<pad>" not in words


def test_mixed_precision_is_served_in_float32(tmp_path, vocabulary):
    mixed = make_model(dtype="mixed_float16")
    mixed.compile("adam", run_eagerly=True)  # a few steps take less time than one trace
    assert isinstance(mixed.optimizer, keras.optimizers.LossScaleOptimizer)
    windows = np.random.default_rng(0).integers(V, size=(8, 6))
    losses = mixed.fit(windows, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    float32 = make_model()
    float32.set_weights(mixed.get_weights())
    served = Unsaved(mixed, vocabulary, tmp_path)
    assert_scores(served, float32, vocabulary, TEXTS[:1])
    assert_next_words(served, float32, vocabulary, TEXTS[:1], k=3)


def test_a_prefix_of_any_length(served_by_id, model, vocabulary, rng):
    text = " ".join(f"w{i}" for i in rng.integers(V - 4, size=3_000))
    assert_scores(served_by_id, model, vocabulary, [text, "w1"])
    assert_next_words(served_by_id, model, vocabulary, [text], k=3)


# What is refused.

# Ids of words, whether they are numbered by cell or not.
IDS = sorted({*make_cells().tolist()} & {*range(V)})

BAD = [
    ("next_words", {"text": ["w1"], "k": 0}, r"`k` must lie in \[1, 43\].*\[0\]"),
    ("next_words", {"text": ["w1"], "k": V + 1}, r"`k` must lie in \[1, 43\].*\[44\]"),
    ("next_words", {"text": [], "k": 1}, "at least one text"),
    ("score", {"text": []}, "at least one text"),
    ("score_ids", {"words": np.ones((0, 4), int)}, "at least one text"),
    ("score_ids", {"words": [IDS[:1]]}, r"at least two word ids.*\[1 1\]"),
    ("score_ids", {"words": [[IDS[0], -1]]}, r"Word ids must lie in .*-1"),
    ("score_ids", {"words": [[IDS[0], R * C]]}, r"Word ids must lie in .*60"),
    # Servers do not compare shapes with those of the signature.
    ("score", {"text": "w1"}, r"text.* \[\] is not compatible (.|\n)*text_must_be_a_vector"),
    ("next_words", {"text": [["w1"]], "k": 1}, r"text.* \[1,1\] is not compatible"),
    (
        "next_words",
        {"text": ["w1"], "k": [1]},
        r"\[1\] is not compatible (.|\n)*k_must_be_a_scalar",
    ),
    ("score_ids", {"words": IDS[:2]}, r"words.* \[2\] is not compatible"),
] + [
    ("generate", {"text": ["w1"], "length": 2, "temperature": 1.0, "seed": 0} | bad, message)
    for bad, message in [
        ({"length": 0}, r"`length` must lie in \[1, 256\].*\[0\]"),
        ({"temperature": -0.5}, r"`temperature` must be finite and not negative.*\[-0.5\]"),
        ({"temperature": np.inf}, r"`temperature` must be finite.*\[inf\]"),
        ({"temperature": np.nan}, r"`temperature` must be finite.*\[nan\]"),
        ({"temperature": [1.0]}, "temperature_must_be_a_scalar"),
        ({"length": [1]}, "length_must_be_a_scalar"),
        ({"seed": [1]}, "seed_must_be_a_scalar"),
        ({"text": "w1"}, "text_must_be_a_vector"),
    ]
]


@pytest.mark.parametrize(("signature", "inputs", "message"), BAD)
@pytest.mark.usefixtures("optimized_graphs")
def test_bad_input_is_an_error(served, signature, inputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(served, signature, **inputs)


def test_empty_cells_are_no_ids(model, by_cell):
    served = tf.saved_model.load(by_cell)
    for cell, word in enumerate(model.word_table.allocation.words.flat):
        if word < 0:
            with pytest.raises(tf.errors.InvalidArgumentError, match="hold a word"):
                call(served, "score_ids", words=[[cell, cell]])
        else:
            call(served, "score_ids", words=[[cell, cell]])


def test_other_models_are_refused(vocabulary, tmp_path):
    words = keras.Input((4,))
    model = keras.Model(words, keras.layers.Dense(2)(words))
    with pytest.raises(TypeError, match=r"`LightRNNModel`.*`model.export`"):
        export_saved_model(model, vocabulary, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_model_must_be_built(vocabulary, tmp_path):
    with pytest.raises(ValueError, match="must be built"):
        export_saved_model(LightRNNModel(V, 4, 4), vocabulary, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("row_embeddings", np.nan), ("row_bias", np.inf), ("row_kernel", -np.inf)],
)
def test_weights_must_be_finite(vocabulary, tmp_path, name, value):
    model = make_model()
    [weight] = [weight for weight in model.weights if weight.name == name]
    values = np.array(weight)
    values.flat[3:5] = value
    weight.assign(values)
    with pytest.raises(
        ValueError, match=rf"finite.* 2 other numbers in .*{name}.*diverged: load earlier weights"
    ):
        export_saved_model(model, vocabulary, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def with_impossible_words(vocabulary, tmp_path_factory):
    """An export, words with a bias of -inf (all of row 4 and two more), and the words of row 6."""
    model = make_model(word_bias="trainable")
    rows = model.word_table.allocation.rows
    excluded, of_row = [7, 9, *np.flatnonzero(rows == 4)], np.flatnonzero(rows == 6)
    assert rows[7] != 4
    assert len(of_row) > 0
    row_bias, word_bias = np.array(model.softmax.row_bias), np.zeros(V, np.float32)
    row_bias[6], word_bias[excluded] = -np.inf, -np.inf
    model.softmax.row_bias.assign(row_bias)
    model.softmax.word_bias_values.assign(word_bias)
    served = Unsaved(model, vocabulary, tmp_path_factory.mktemp("impossible"))
    return served, excluded, of_row


def test_words_may_be_impossible(with_impossible_words):
    served, excluded, of_row = with_impossible_words
    words = np.array([[1, *excluded, *of_row]])
    log_probs = call(served, "score_ids", words=words)["log_probs"]
    assert np.isneginf(log_probs).all()


@pytest.mark.parametrize("recurrence", ["lstm", "gru"])
def test_extreme_weights(vocabulary, tmp_path, recurrence):
    """An empty cell is no answer, however improbable the words are."""
    model = make_model(recurrence, word_bias="trainable")
    for weight in model.trainable_weights:
        weight.assign(1e10 * np.array(weight))
    served = Unsaved(model, vocabulary, tmp_path)
    text = "w1 w2"
    answer = call(served, "next_words", text=[text], k=V)
    words = decode(answer["words"][0])
    assert sorted(words) == sorted(vocabulary.words)
    log_probs = answer["log_probs"][0]
    assert np.isfinite(log_probs).all()
    assert log_probs[-1] < -1e10
    assert (np.diff(log_probs) <= 0).all()
    scores = call(served, "score", text=[f"{text} {word}" for word in words])["log_probs"][:, 2]
    # Sums over units of numbers of this size are rounded.
    assert log_probs == pytest.approx(scores, rel=1e-3, abs=1e6)
    for temperature in (0, 1e-3, 1, 1e12):
        sampling = {"length": 3, "temperature": temperature, "seed": 0}
        for words in call(served, "generate", text=[text] * 9, **sampling)["words"]:
            assert {*decode(words)} <= {*vocabulary.words}


def test_every_impossible_word_is_an_answer_once(with_impossible_words, vocabulary):
    served, excluded, of_row = with_impossible_words
    answer = call(served, "next_words", text=["w1"], k=V)
    assert sorted(decode(answer["words"][0])) == sorted(vocabulary.words)
    num_impossible = len({*excluded, *of_row})
    assert np.isneginf(answer["log_probs"][0, -num_impossible:]).all()
    possible = answer["log_probs"][0, :-num_impossible]
    assert np.exp(possible).sum() == pytest.approx(1, abs=1e-5)


def test_weights_must_not_overflow(vocabulary, tmp_path):
    model = make_model()
    model.softmax.row_kernel.assign(np.full(model.softmax.row_kernel.shape, 1e13))
    with pytest.raises(ValueError, match=r"at most 1e\+12 in .* 120 other numbers in .*row_kernel"):
        export_saved_model(model, vocabulary, tmp_path)


def test_vocabulary_must_fit(model, tmp_path):
    with pytest.raises(ValueError, match="2 words, and a model of 43"):
        export_saved_model(model, Vocabulary(["<unk>", "<eos>"]), tmp_path / "m")
    assert not (tmp_path / "m").exists()


# Failures while it is written.


def test_a_failure_leaves_nothing(model, vocabulary, tmp_path, monkeypatch):
    def save(_, directory, signatures):
        (Path(directory) / "saved_model.pb").write_bytes(b"")

    def fail(directory, requests):
        assert os.listdir(directory) == ["saved_model.pb"]
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", save)
    monkeypatch.setattr(saved_model, "write_warm_up_requests", fail)
    with pytest.raises(OSError, match="disk full"):
        export_saved_model(model, vocabulary, tmp_path)
    assert os.listdir(tmp_path) == []


# Who can load it.

# Neither Keras nor this package is there, nor is the vocabulary that was given.
FRESH = """
import json, sys
sys.modules["keras"] = sys.modules["keras_lightrnn"] = None
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
answer = served.signatures["next_words"](text=tf.constant(["w3 w1", ""]), k=tf.constant(4))
print(json.dumps([[word.decode() for word in row] for row in answer["words"].numpy()]))
"""


def test_loads_in_a_fresh_process(by_id, served_by_id, tmp_path):
    moved = shutil.copytree(by_id, tmp_path / "moved")
    result = subprocess.run(
        [sys.executable, "-c", FRESH, moved], check=True, cwd=tmp_path, capture_output=True
    )
    answer = call(served_by_id, "next_words", text=["w3 w1", ""], k=4)
    assert json.loads(result.stdout) == [decode(row) for row in answer["words"]]


def test_keras_loads_it_as_a_layer(by_id, served_by_id):
    layer = keras.layers.TFSMLayer(by_id, call_endpoint="score")
    answer = layer(tf.constant(TEXTS))
    expected = call(served_by_id, "score", text=TEXTS)
    assert np.asarray(answer["log_probs"]) == pytest.approx(expected["log_probs"])


def test_saved_model_cli(by_id, served_by_id, capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["saved_model_cli", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            saved_model_cli.main()
        assert not exit_info.value.code
        return capsys.readouterr().out

    signature = ["--dir", str(by_id), "--tag_set", "serve", "--signature_def", "next_words"]
    shown = run("show", *signature)
    assert "inputs['text']" in shown
    assert "outputs['log_probs']" in shown
    printed = run("run", *signature, "--input_exprs", "text=['w3 w1'];k=2")
    words = call(served_by_id, "next_words", text=["w3 w1"], k=2)["words"][0]
    assert " ".join(repr(word) for word in words) in printed


@needs_c_api
def test_c_api(by_id, served_by_id, tmp_path):
    """The code path of TensorFlow Serving, whose errors must be errors there too."""
    good = [
        ("score", {"text": TEXTS}),
        ("next_words", {"text": TEXTS, "k": 4}),
        ("generate", {"text": TEXTS, "length": 5, "temperature": 0.7, "seed": 3}),
        ("score_ids", {"words": np.reshape(IDS[:6], (2, 3))}),
    ]
    answers = run_c_api(by_id, good + [(name, inputs) for name, inputs, _ in BAD], tmp_path)
    for (name, inputs), answer in zip(good, answers, strict=False):
        for key, expected in call(served_by_id, name, **inputs).items():
            assert answer[key]["shape"] == list(expected.shape)
            if expected.dtype == object:
                assert answer[key]["values"] == decode(expected.ravel())
            else:
                values = np.reshape(answer[key]["values"], expected.shape)
                assert values == pytest.approx(expected, rel=1e-5, abs=1e-5)
    for (_, _, message), answer in zip(BAD, answers[len(good) :], strict=True):
        with pytest.raises(RuntimeError, match=message):
            raise RuntimeError(answer["error"])


def test_openvino_scores_ids(by_id, model, rng):
    """Its native reader takes the default signature, without TensorFlow."""
    openvino = pytest.importorskip("openvino", reason="pip install openvino (283 MB)")
    # Its own default on many processors is half precision.
    compiled = openvino.compile_model(
        openvino.convert_model(str(by_id)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    for shape in (3, 9), (1, 4):
        words = rng.integers(V, size=shape).astype("int32")
        assert compiled([words])[0] == pytest.approx(model.score(words), abs=1e-4)


JAX = """
import sys
from exportable import make_model
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.serving import export_saved_model
vocabulary = Vocabulary.load(sys.argv[1])
print(export_saved_model(make_model(), vocabulary, sys.argv[2]))
"""


@pytest.mark.slow
def test_a_model_of_another_backend(model, vocabulary, tmp_path):
    pytest.importorskip("jax")
    vocabulary.save(tmp_path / "words.txt")
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parents[1])])
    subprocess.run(
        [sys.executable, "-c", JAX, tmp_path / "words.txt", tmp_path],
        check=True,
        env={**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": "", "PYTHONPATH": path},
    )
    served = tf.saved_model.load(str(tmp_path / "1"))
    # The weights are drawn by NumPy, the same on every backend.
    assert_scores(served, model, vocabulary, TEXTS)
