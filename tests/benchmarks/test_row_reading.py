"""The benchmark of row readers trains what it names."""

from __future__ import annotations

import json

import numpy as np
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


def test_average_of_models(sentences, tmp_path):
    options = ["--units", "4", "--batch-size", "2", "--sequence-length", "6", "--epochs", "1"]
    options += ["--models", "reader", "--seeds", "0", "1", "--log-probs", str(tmp_path), "--cache"]
    trained = load_script("benchmarks/row_reading.py").main([*sentences, *options])["reader"]
    files = [str(tmp_path / f"reader-seed{seed}.npz") for seed in (0, 1)]
    results = load_script("benchmarks/average_models.py").main(files)
    for path, run in zip(files, trained, strict=True):
        assert results[path]["test_with_cache"] == pytest.approx(run["test_with_cache"], rel=1e-6)
    probs = [np.exp(np.load(path)["test"]) for path in files]
    assert not np.allclose(*probs)
    expected = np.exp(-np.log((probs[0] + probs[1]) / 2).mean())
    assert results["average"]["test"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["reader4", "half", "reader-x"])
def test_names_of_models(name):
    with pytest.raises(ValueError, match="A model must be named"):
        load_script("benchmarks/row_reading.py").parse_name(name)
