"""The benchmark of row readers trains what it names."""

from __future__ import annotations

import json

import pytest
from scripts import load_script


def test_trains_every_model(sentences, tmp_path, capsys):
    options = ["--units", "4", "--batch-size", "2", "--sequence-length", "6", "--epochs", "1"]
    options += ["--models", "half-steps", "reader-2x2", "--json", str(tmp_path / "results.json")]
    options += ["--cache"]
    main = load_script("benchmarks/row_reading.py").main
    results = main([*sentences, *options])
    assert json.loads((tmp_path / "results.json").read_text("utf-8")) == results
    for [run] in results.values():
        assert 1 < run["test"] < 12  # below the number of words
        assert 1 < run["test_with_cache"] < 12
        assert run["test_with_cache"] != run["test"]
        assert run["steps"] > 0
    assert results["reader-2x2"][0]["parameters"] > results["half-steps"][0]["parameters"]
    assert "half-steps, seed 0" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["reader4", "half", "reader-x"])
def test_names_of_models(name):
    with pytest.raises(ValueError, match="A model must be named"):
        load_script("benchmarks/row_reading.py").parse_name(name)
