"""The benchmark of several tables trains what it names."""

from __future__ import annotations

from scripts import load_script


def test_trains_every_model(sentences, capsys):
    options = ["--units", "4", "--batch-size", "2", "--sequence-length", "6", "--epochs", "1"]
    main = load_script("benchmarks/several_tables.py").main
    results = main([*sentences, *options, "--tables", "1", "2"])
    assert list(results) == [(1, 1), (2, 1)]
    one, two = (run for [run] in results.values())
    assert two["parameters"] > one["parameters"]
    assert 0 <= two["unexplained"] <= one["unexplained"] <= 1
    assert 1 < two["test"] < 12  # below the number of words
    assert "2 table(s) of 1 component(s), seed 0" in capsys.readouterr().out
