from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from exportable import MIXTURE, READER, C, R, V, make_model

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.data import Vocabulary, token_windows
from keras_lightrnn.datasets.docstring_prose import iter_docstrings, iter_sentences
from keras_lightrnn.serving import export_litert, litert

pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")

from phone import Phone

PHONE = Path(__file__).with_name("phone.py")


def read_words(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["words.txt"]
        return archive.read("words.txt").decode().split("\n")


@pytest.fixture(scope="module")
def trained():
    """A model of real English, small and briefly trained, and 4,000 words it has not seen."""
    lines = [
        sentence
        for path in sorted((Path(np.__file__).parent / "lib").glob("*.py"))
        for docstring in iter_docstrings(path.read_text("utf-8"))
        for sentence in iter_sentences(docstring)
    ]
    vocabulary = Vocabulary.from_lines(lines, max_size=1_000)
    stream = vocabulary.encode_lines(lines)
    keras.utils.set_random_seed(0)
    model = LightRNNModel(
        Allocation.from_cooccurrence(stream, len(vocabulary), seed=0),
        embedding_dim=64,
        units=64,
        word_bias="counts",
    )
    model.assign_word_counts(np.bincount(stream, minlength=len(vocabulary)))
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(token_windows(stream[:-4_000], 20, 20), epochs=2, verbose=0)
    return model, vocabulary, stream[-4_000:].reshape(20, -1)


def test_runs_without_tensorflow_and_equals_the_model(model, vocabulary, tmp_path, rng):
    path = export_litert(model, tmp_path / "model.tflite", vocabulary=vocabulary)
    lines = read_words(path)
    words = model.word_table.allocation.words.ravel()
    for cell in range(R * C):
        assert lines[cell] == (vocabulary.words[words[cell]] if words[cell] >= 0 else f" {cell}")
    texts = [rng.integers(V, size=size) for size in (2, 7)]
    cells = [model.word_table.allocation.cells[text].tolist() for text in texts]
    (tmp_path / "texts.json").write_text(json.dumps(cells))
    command = [sys.executable, str(PHONE), str(path), str(tmp_path / "texts.json")]
    result = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    for text, answer in zip(texts, json.loads(result.stdout), strict=True):
        assert answer[0] == pytest.approx(model.score(text), abs=1e-4)
        best, log_probs = model.next_words(text, k=10)
        assert words[answer[1]].tolist() == best.tolist()
        assert answer[2] == pytest.approx(log_probs, abs=1e-4)


@pytest.mark.parametrize(
    ("recurrence", "options"),
    [
        ("gru", {"word_bias": None, "word_dim": 3, "num_word_vectors": V - 9}),
        ("rnn", {"cells": np.arange(R * C), "dtype": "mixed_bfloat16"}),
        ("lstm", {**READER, "word_dim": 2}),
        ("gru", {**MIXTURE, "word_dim": 3, "num_word_vectors": V - 9}),
        ("rnn", {**MIXTURE, "cells": np.arange(R * C), "dtype": "mixed_bfloat16"}),
        ("rnn", {"embedding_dim": 6, "tie_embeddings": True}),
        ("rnn", {**READER, "embedding_dim": 6, "tie_embeddings": True}),
    ],
)
def test_other_models(tmp_path, recurrence, options, rng):
    model = make_model(recurrence, **options)
    float32 = make_model(recurrence, **{**options, "dtype": "float32"})
    float32.set_weights(model.get_weights())
    phone = Phone(export_litert(model, tmp_path / "model.tflite"))
    words = rng.integers(model.word_table.vocabulary_size, size=(3, 6))
    cells = model.word_table.allocation.cells[words]
    assert phone.score(cells) == pytest.approx(float32.score(words), abs=1e-4)
    by_cell = model.word_table.allocation.words.ravel()
    for text, of_text in zip(words, cells, strict=True):
        best, log_probs = phone.next_cells(of_text, 10)
        expected = float32.next_words(text, 10)
        assert by_cell[best].tolist() == expected[0].tolist()
        assert log_probs == pytest.approx(expected[1], abs=1e-4)


def test_a_quantized_mixture(tmp_path, rng):
    model = make_model(**MIXTURE, word_dim=3)
    for weight in model.trainable_weights:  # as large as trained ones
        weight.assign(0.3 * np.array(weight))
    words = rng.integers(V, size=(20, 12))
    cells = model.word_table.allocation.cells[words]
    expected = model.score(words)
    for quantize, tolerance in ("float16", 0.002), ("int8", 0.02):
        phone = Phone(export_litert(model, tmp_path / f"{quantize}.tflite", quantize))
        log_probs = phone.score(cells)
        assert log_probs.mean() == pytest.approx(expected.mean(), abs=tolerance)
        assert log_probs == pytest.approx(expected, abs=20 * tolerance)


def test_quantized_perplexity_on_real_text(trained, tmp_path):
    model, vocabulary, words = trained
    expected = np.exp(-model.score(words).mean())
    counts = np.bincount(words.ravel(), minlength=len(vocabulary))
    assert expected < 0.7 * np.exp(-np.log((counts / counts.sum())[words]).mean())
    cells = model.word_table.allocation.cells[words]
    sizes = {}
    for quantize, tolerance in ((None, 1e-5), ("float16", 0.001), ("int8", 0.01)):
        path = export_litert(model, tmp_path / f"{quantize}.tflite", quantize)
        perplexity = np.exp(-Phone(path).score(cells).mean())
        assert perplexity == pytest.approx(expected, rel=tolerance)
        sizes[quantize] = path.stat().st_size
    # Of each weight there is one copy, though both signatures use it; 36 kB are not weights.
    num_weights = sum(int(np.prod(weight.shape)) for weight in model.weights[:-2])
    for quantize, num_bytes in ((None, 4), ("float16", 2), ("int8", 1)):
        assert num_bytes * num_weights < sizes[quantize] < num_bytes * num_weights + 36_000


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_components_out_of_range_are_an_error(model, tmp_path, quantize):
    phone = Phone(export_litert(model, tmp_path / "model.tflite", quantize))
    states = np.zeros((1, *phone.state_shape), np.float32)
    for row in (-1, R):
        with pytest.raises(RuntimeError, match="index"):
            phone.read_row(rows=np.int32([row]), states=states)
    for cell in (-1, -C, R * C, 10**6, 2**31 - 1, -(2**31)):
        with pytest.raises(RuntimeError, match="index"):
            phone.read_column(cells=np.int32([cell]), states=states)


@pytest.mark.parametrize("quantize", [None, "float16", "int8"])
def test_impossible_words_stay_impossible(tmp_path, quantize):
    model = make_model(word_bias="trainable")
    allocation = model.word_table.allocation
    word_bias = np.zeros(V, np.float32)
    word_bias[[7, *np.flatnonzero(allocation.rows == 4)]] = -np.inf
    model.softmax.word_bias_values.assign(word_bias)
    phone = Phone(export_litert(model, tmp_path / "model.tflite", quantize))
    texts = np.stack([np.full(R * C, allocation.cells[1]), np.arange(R * C)], axis=1)
    with np.errstate(over="ignore"):
        scores = phone.score(texts)
    possible = allocation.cells[np.isfinite(word_bias)]
    assert np.flatnonzero(scores > -6e4).tolist() == sorted(possible)
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4)


def test_model_and_words_are_replaced_as_one(model, vocabulary, tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    other = Vocabulary(reversed(vocabulary.words))
    export_litert(model, path, vocabulary=other)
    before = path.read_bytes()
    assert {*read_words(path)} >= {*vocabulary.words}

    def fail(*_):
        yield "w0\n"
        raise OSError("disk full")

    with monkeypatch.context() as context:
        context.setattr(litert, "iter_words_by_cell", fail)
        with pytest.raises(OSError, match="disk full"):
            export_litert(model, path, vocabulary=vocabulary)
    assert path.read_bytes() == before
    # Equal models and words give equal files, whatever the time is.
    assert export_litert(model, path, vocabulary=other).read_bytes() == before
    export_litert(model, path)
    assert not zipfile.is_zipfile(path)
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_arguments(model, tmp_path):
    with pytest.raises(ValueError, match=r"`quantize` must be one of .*'int4'"):
        export_litert(model, tmp_path / "m.tflite", quantize="int4")
    with pytest.raises(ValueError, match="must be built"):
        export_litert(LightRNNModel(V, 4, 4), tmp_path / "m.tflite")
    diverged = make_model()
    diverged.softmax.column_bias.assign(np.full(C, np.nan))
    with pytest.raises(ValueError, match=rf"{C} other numbers in .*column_bias.*has diverged"):
        export_litert(diverged, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="2 words, and a model of 43"):
        export_litert(model, tmp_path / "m.tflite", vocabulary=Vocabulary(["<unk>", "<eos>"]))
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_checked_before_the_conversion(tmp_path, monkeypatch):
    model = make_model("lstm")
    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", None)
    with pytest.raises(TypeError, match=r"`Vocabulary`.*list"):
        export_litert(model, tmp_path / "model.tflite", vocabulary=["a"])
