from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from scripts import load_script

from keras_lightrnn.data import Vocabulary
from keras_lightrnn.search import generate


@pytest.fixture(scope="module")
def example():
    return load_script("examples/transformer.py")


@pytest.fixture(scope="module")
def trained(example, tmp_path_factory):
    """What the example returns and saves, of a text in which words follow from those before."""
    directory = tmp_path_factory.mktemp("transformer")
    rng = np.random.default_rng(0)
    paths = [str(directory / name) for name in ("train.txt", "valid.txt")]
    for path, num_lines in zip(paths, (300, 40), strict=True):
        with open(path, "w", encoding="utf-8") as file:
            for start in rng.integers(12, size=num_lines):
                file.write(" ".join(f"w{(start + step) % 12}" for step in range(6)) + "\n")
    result = example.main(
        ["--text", *paths, "--dim", "16", "--heads", "2", "--sequence-length", "12"]
        + ["--batch-size", "8", "--epochs", "3", "--learning-rate", "0.02", "--length", "4"]
        + ["--output", str(directory / "out")]
    )
    return result, directory / "out"


def test_trains_and_saves(trained):
    result, output = trained
    assert result["perplexity"] < 0.5 * result["unigram_perplexity"]
    vocabulary = Vocabulary.load(output / "vocabulary.txt")
    model = keras.saving.load_model(output / "model.keras")
    served = tf.saved_model.load(output / "served" / "1")
    prefix = vocabulary.encode("w2 w3 w4")
    answer = served.signatures["next_words"](text=tf.constant(["w2 w3 w4"]), k=tf.constant(1))
    assert answer["words"].numpy().tolist() == [[b"w5"]]
    # The end word before the text, and the one after it, which is only predicted.
    log_probs = model.predict(np.append(vocabulary.end_id, prefix)[None], verbose=0)
    scored = served.signatures["score"](text=tf.constant(["w2 w3 w4"]))["log_probs"]
    assert scored.numpy() == pytest.approx(log_probs, abs=1e-4)


def test_the_cache_changes_nothing(example, trained):
    model = keras.saving.load_model(trained[1] / "model.keras")
    softmax, encoder = model.get_layer("softmax"), example.make_encoder(model)
    prefixes = [[3, 4, 5, 6], [7], [2, 9, 3]]
    words, log_probs = generate(
        example.TransformerSteps(model),
        softmax,
        prefixes,
        length=7,
        num_beams=3,
        num_return=3,
        return_log_probs=True,
    )
    assert words.shape == (3, 3, 7)
    assert (np.diff(log_probs) <= 0).all()
    # All words of each text once more, without a cache.
    for prefix, of_prefix, expected in zip(prefixes, words, log_probs, strict=True):
        texts = np.concatenate([[prefix] * 3, of_prefix], axis=1)
        found = np.asarray(model(texts))[:, len(prefix) - 1 :].sum(axis=1)
        assert found == pytest.approx(expected, abs=1e-4)
    # The best word at each step.
    best = generate(example.TransformerSteps(model), softmax, prefixes, length=5, temperature=0)
    for prefix, of_prefix in zip(prefixes, best, strict=True):
        text = list(prefix)
        for word in of_prefix:
            states = encoder(np.array([[*text, 0]]))[:, -1]
            assert word == softmax.next_words(states, k=1)[0][0, 0]
            text.append(int(word))


def test_texts_end_where_positions_do(example, trained):
    model = keras.saving.load_model(trained[1] / "model.keras")
    with pytest.raises(ValueError, match=r"at most 12 words.*continuations of 13 words"):
        generate(example.TransformerSteps(model), model.get_layer("softmax"), [1, 2, 3], 10)


def test_help(example, capsys):
    with pytest.raises(SystemExit) as exit_info:
        example.main(["--help"])
    assert exit_info.value.code == 0
    assert "--sequence-length" in capsys.readouterr().out
