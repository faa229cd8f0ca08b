"""The benchmark of first tables."""

from __future__ import annotations

import numpy as np
from scripts import load_script

from keras_lightrnn.clustering import two_way


def test_tables_of_a_text_and_of_more_words(sentences, monkeypatch, capsys):
    monkeypatch.setattr(two_way, "AUCTION_SIZE", 20)
    main = load_script("benchmarks/first_table.py").main
    main(["--text", sentences[1], "--num-features", "2"])
    assert "1 table(s) of 9 words" in capsys.readouterr().out
    options = ["--vocabulary-size", "30", "--num-features", "2", "--num-tables", "2"]
    main(["--text", sentences[1], *options])
    output = capsys.readouterr().out
    assert "2 table(s) of 30 words" in output
    assert 0.0 < float(output.split("unexplained: ")[1].split()[0]) < 100.0


def test_words_are_made_of_others():
    make_words = load_script("benchmarks/first_table.py").make_words
    features = np.float32([[0, 0], [4, 0], [0, 8]])
    made = make_words(features, 400, seed=0)
    distances = np.linalg.norm(made[:, None] - features[1:], axis=2)
    assert distances.min(axis=1).max() < 4.5
    counts = np.bincount(distances.argmin(axis=1), minlength=2)
    assert counts.min() > 150
    assert 0.8 < (made - features[1:][distances.argmin(axis=1)]).std() < 1.0
