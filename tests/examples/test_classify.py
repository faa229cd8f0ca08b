from __future__ import annotations

import pytest
from scripts import load_script


@pytest.fixture(scope="module")
def example():
    return load_script("examples/classify.py")


def test_learns_and_compares(example, capsys):
    sizes = ["--classes", "400", "--units", "24", "--batch-size", "64", "--test-examples", "200"]
    result = example.main([*sizes, "--steps", "250", "--noise", "0.1"])
    assert result["top_5"] > 0.5
    assert result["top_1"] <= result["top_5"]
    printed = capsys.readouterr().out
    for part in ("top-5 accuracy", "Dense(400): 11,560 parameters", "Dense(1,000,000): 25,001,560"):
        assert part in printed


def test_more_classes_than_a_dense_layer_is_measured_with(example, capsys, monkeypatch):
    monkeypatch.setattr(example, "MOST_DENSE", 10)
    sizes = ["--classes", "50", "--units", "8", "--batch-size", "8", "--test-examples", "20"]
    assert example.main([*sizes, "--steps", "2"])["dense_step"] is None
    assert "Dense(50): 970 parameters, 0.0 MB in training\n" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--classes", "4"], ["--steps", "0"]])
def test_errors(example, arguments):
    with pytest.raises(SystemExit, match="at least"):
        example.main(arguments)
