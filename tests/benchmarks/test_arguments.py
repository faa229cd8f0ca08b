"""What the benchmarks are asked to do."""

from __future__ import annotations

import json

import keras
import pytest
from scripts import load_script


def test_a_new_directory_for_the_shards(tmp_path, capsys):
    options = ["--num-words", "500", "--vocabulary-size", "20", "--units", "0"]
    options += ["--batch-size", "2", "--sequence-length", "5", "--seconds", "0", "--repeats", "1"]
    directory = tmp_path / "new" / "shards"
    load_script("benchmarks/input_pipeline.py").main([*options, "--directory", str(directory)])
    assert "| shards | shuffled | tf.data |" in capsys.readouterr().out
    assert list(directory.iterdir()) == []


def test_steps_that_are_timed(capsys):
    main = load_script("benchmarks/scaling.py").main
    options = ["--vocabulary-sizes", "20", "--units", "2", "--batch-size", "2"]
    with pytest.raises(SystemExit):
        main([*options, "--steps", "2"])
    assert "--steps: must be more than the 2 first ones" in capsys.readouterr().err
    main([*options, "--steps", "3"])
    assert json.loads(capsys.readouterr().out)["step_milliseconds"] > 0


@pytest.mark.parametrize("size", ["32", "8,5,16,x"])
def test_sizes_are_four_numbers(size, capsys, monkeypatch):
    pytest.importorskip("jax", reason="pip install jax")
    # The benchmark sets what is not set.
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with pytest.raises(SystemExit) as exit_info:
        load_script("benchmarks/gpu.py").main(["--sizes", size])
    assert exit_info.value.code == 2
    assert f"four numbers, B,T,H,V. Received: {size}." in capsys.readouterr().err
