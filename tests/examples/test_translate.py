from __future__ import annotations

import keras
import numpy as np
import pytest
from scripts import load_script

from keras_lightrnn.data import Vocabulary
from keras_lightrnn.search import generate

SMALL = ["--units", "32", "--dim", "16", "--batch-size", "32", "--learning-rate", "0.02"]


@pytest.fixture(scope="module")
def example():
    return load_script("examples/translate.py")


@pytest.fixture(scope="module")
def trained(example, tmp_path_factory):
    output = tmp_path_factory.mktemp("translate") / "out"
    scores = example.main(
        ["--pairs", "600", "--stems", "2", "--epochs", "8", "--test-size", "20"]
        + ["--output", str(output), *SMALL]
    )
    return scores, output


def test_translates_and_saves(example, trained):
    scores, output = trained
    assert list(scores) == ["1 beams", "4 beams"]
    assert scores["4 beams"]["right words"] > 60
    if example.sacrebleu is not None:
        assert scores["4 beams"]["chrF"] > 60
        assert scores["4 beams"]["BLEU"] > 30
    for name in ("source.txt", "target.txt"):
        assert Vocabulary.load(output / name).words[0] == "<pad>"


def test_steps_score_as_the_model_does(example, trained):
    model = keras.saving.load_model(trained[1] / "model.keras")
    words = Vocabulary.load(trained[1] / "target.txt")
    source_words = Vocabulary.load(trained[1] / "source.txt")
    lines = [pair[0] for pair in example.make_pairs(5, 2, seed=0)]
    sources = example.encode(source_words, lines)  # of unequal lengths
    assert (sources == 0).any()
    found, log_probs = generate(
        example.TranslatorSteps(model),
        model.get_layer("softmax"),
        np.full((5, 1), words.end_id),
        length=8,
        end_word=words.end_id,
        num_beams=3,
        num_return=2,
        source=sources,
        return_log_probs=True,
    )
    for rank in range(2):
        windows = np.concatenate([np.full((5, 1), words.end_id), found[:, rank]], axis=1)
        expected = np.where(found[:, rank] > 0, np.asarray(model([sources, windows])), 0)
        assert log_probs[:, rank] == pytest.approx(expected.sum(axis=1), abs=1e-4)
    # A sentence alone, without padding.
    for index in (0, 1):
        alone = sources[index][sources[index] > 0][None]
        [translation] = example.translate(model, alone, words, 8, 3)
        together = example.translate(model, sources, words, 8, 3)
        assert translation == together[index]


def test_reads_files(example, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "sacrebleu", None)
    pairs = [*example.make_pairs(60, 2, seed=1), ("", "nothing")]
    paths = [tmp_path / name for name in ("source.txt", "target.txt")]
    for path, lines in zip(paths, zip(*pairs, strict=True), strict=True):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["--source", str(paths[0]), "--target", str(paths[1]), "--max-length", "7"]
    scores = example.main(
        [*options, "--epochs", "1", "--beams", "1", "--output", str(tmp_path / "out"), *SMALL]
    )
    assert list(scores["1 beams"]) == ["right translations", "right words"]
    printed = capsys.readouterr().out
    assert "longer than 7 words left out" in printed
    assert 'pip install "keras-lightrnn[translation]"' in printed


def test_bad_files(example, tmp_path, capsys):
    paths = [tmp_path / name for name in ("source.txt", "target.txt")]
    paths[0].write_text("a b\nc\n", encoding="utf-8")
    paths[1].write_text("a b\n", encoding="utf-8")
    options = ["--source", str(paths[0]), "--target", str(paths[1])]
    with pytest.raises(ValueError, match=r"as many lines.*2 lines of .*source.txt, 1 of"):
        example.main(options)
    paths[1].write_text("a b\n\n", encoding="utf-8")
    for arguments, message in (
        (options, "at least 5 pairs, and this one has 1"),
        (options[:2], "--source and --target belong together"),
    ):
        with pytest.raises(SystemExit):
            example.main(arguments)
        assert message in capsys.readouterr().err


def test_the_grammar(example):
    pairs = example.make_pairs(300, 20, seed=3)
    assert pairs == example.make_pairs(300, 20, seed=3)
    assert pairs != example.make_pairs(300, 20, seed=4)
    translations = dict(pairs)
    assert all(translations[source] == target for source, target in pairs)
    sizes = [
        len({word for text in side for word in text.split()}) for side in zip(*pairs, strict=True)
    ]
    assert sizes[1] > 2 * sizes[0]
