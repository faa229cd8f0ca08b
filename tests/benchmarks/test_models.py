"""The benchmarks of models, on a text of some dozen words."""

from __future__ import annotations

import math
from argparse import Namespace

import numpy as np
import pytest
import tensorflow as tf
from scripts import load_script

from keras_lightrnn import LightRNNModel
from keras_lightrnn.data import Vocabulary, read_lines

OPTIONS = ["--units", "4", "--epochs", "2", "--batch-size", "4", "--sequence-length", "5"]


@pytest.fixture
def text(tmp_path, rng):
    paths = [tmp_path / f"{split}.txt" for split in ("train", "valid", "test")]
    for path in paths:
        lines = (" ".join(map(str, rng.integers(9, size=6))) for _ in range(30))
        path.write_text("".join(f"{line}\n" for line in lines))
    return ["--text", *map(str, paths)]


def test_full_softmax(text):
    results = load_script("benchmarks/full_softmax.py").main([*text, *OPTIONS, "--word-dim", "2"])
    params = {name: runs[0][0] for name, runs in results.items()}
    size, units = 9 + 2, 4  # with <unk> and <eos>
    shared = 4 * (2 * units * units + units)  # the LSTM
    rows_and_columns = 4 + 3
    light = shared + rows_and_columns * (2 * units + 1)
    assert params == {
        "full softmax": shared + size * (2 * units + 1),
        "LightRNN": light,
        "LightRNN + word vectors": light + (size + 2 * units) * 2,
    }
    for [(_, milliseconds, valid, test)] in results.values():
        assert milliseconds > 0
        # Words are drawn at random: no model can beat their number by much, or is far above.
        assert 0.5 * size < min(valid, test) <= max(valid, test) < 2 * size
        assert not math.isclose(valid, test)  # they are of different texts


def test_reallocation(text, capsys):
    results = load_script("benchmarks/reallocation.py").main(
        [*text, *OPTIONS, "--every", "4", "--objectives", "none", "similarity"]
    )
    starts = ("random", "cooccurrence")
    assert set(results) == {(s, o) for s in starts for o in ("none", "similarity")}
    # One round of each of the two runs that have an objective.
    assert capsys.readouterr().out.count("reallocation round 1: ") == 2
    assert all(4 < perplexity < 20 for [run] in results.values() for perplexity in run)


def test_reallocation_of_two_tables(text, capsys):
    results = load_script("benchmarks/reallocation.py").main(
        [*text, *OPTIONS, "--row-reading", "reader", "--num-tables", "2", "--max-rounds", "2"]
        + ["--every", "4", "--objectives", "similarity", "--allocations", "random"]
    )
    assert list(results) == [("random", "similarity")]
    printed = capsys.readouterr().out
    assert "reallocation round 1, table 0: " in printed
    assert "reallocation round 2, table 1: " in printed


def test_requests(capsys):
    arguments = ["--requests", "--vocabulary-size", "50", "--units", "4", "--rounds", "1"]
    results = load_script("benchmarks/inference.py").main(arguments)
    # One state and a batch; Dense, and one table and two: all words, and sharp and flat, layer and
    # export.
    assert len(results) == 2 * (1 + 2 * (1 + 4))
    assert all(milliseconds > 0 for milliseconds in results.values())
    printed = capsys.readouterr().out
    assert "best 20 of 50 words" in printed
    one, two = (results[f"{n} table(s), flat"] / results[f"{n} table(s), whole"] for n in (1, 2))
    assert all(f"| {ratio:.2f} |" in printed for ratio in (one, two))


@pytest.mark.parametrize("num_tables", [1, 2])
def test_all_log_probs_are_those_of_the_layer(rng, num_tables):
    script = load_script("benchmarks/inference.py")
    softmax = script.make_softmax(Namespace(vocabulary_size=50, units=4), num_tables, 1.0)
    states = rng.normal(size=(3, 4)).astype("float32")
    every = np.tile(np.arange(50, dtype="int32"), (3, 1))
    expected = np.asarray(softmax(np.repeat(states[:, None], 50, axis=1), every))
    found = script.compute_all_log_probs(softmax, tf.constant(states))
    assert np.asarray(found) == pytest.approx(expected, abs=2e-5)


def test_inference(tmp_path, text, capsys):
    vocabulary = Vocabulary.from_lines(read_lines(text[1]))
    vocabulary.save(tmp_path / "vocabulary.txt")
    model = LightRNNModel(len(vocabulary), 4, 4, stateful=True)
    model.build((4, 6))
    model.save(tmp_path / "model.keras")
    options = ["--model", str(tmp_path), "--text", text[-1], "--prefix-length", "3"]
    results = load_script("benchmarks/inference.py").main([*options, "--rounds", "2"])
    assert all(value > 0 for value in results.values())
    assert f"| best 10 words | {results['best 10 words']:.2f} | 1.0 |" in capsys.readouterr().out
