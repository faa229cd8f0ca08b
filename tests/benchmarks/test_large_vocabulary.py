"""The contest at equal time, on a text of some dozen words."""

from __future__ import annotations

import json
import re

import pytest
from scripts import load_script


@pytest.fixture
def options(tmp_path, rng):
    paths = [tmp_path / f"{split}.txt" for split in ("train", "valid", "test")]
    for path in paths:
        lines = (" ".join(map(str, rng.integers(9, size=6))) for _ in range(30))
        path.write_text("".join(f"{line}\n" for line in lines))
    options = ["--text", *map(str, paths), "--units", "4", "--batch-size", "4"]
    options += ["--sequence-length", "5", "--seconds", "0.05", "--learning-rates", "0.01"]
    return [*options, "--num-sampled", "3", "--cutoffs", "6"]


# Numbers of parameters; 11 words with <unk> and <eos>, 4 units, a table of 3 x 4 cells.
LSTM, TABLE, WORDS = 4 * (2 * 4 * 4 + 4), 7 * (2 * 4 + 1), 11 * (2 * 4 + 1)
EXPECTED = {
    "half-steps": LSTM + TABLE,
    "sampled": LSTM + WORDS,
}


@pytest.mark.parametrize(
    "name",
    [pytest.param("half-steps", marks=pytest.mark.slow), "reader-2x2+2", "sampled"],
)
def test_every_model_learns_no_more_than_there_is(options, capsys, name):
    main = load_script("benchmarks/large_vocabulary.py").main
    main([*options, "--models", name, "--worker", name])
    [result] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["parameters"] == EXPECTED.get(name, result["parameters"])
    assert result["steps"] >= 1
    assert result["words_per_second"] > 0
    # Words are drawn at random: no model can beat their number by much, or is far above.
    assert 0.5 * 11 < result["validation"] < 2 * 11
    assert 0.5 * 11 < result["test"] < 2 * 11


def test_adaptive_softmax_in_a_process_of_its_own(options, tmp_path, capsys):
    pytest.importorskip("torch", reason="pip install torch")
    path = tmp_path / "results.json"
    main = load_script("benchmarks/large_vocabulary.py").main
    [result] = main([*options, "--models", "adaptive", "--json", str(path)])
    assert json.loads(path.read_text()) == [result]
    assert 0.5 * 11 < result["test"] < 2 * 11
    assert f"| {result['parameters']:,} |" in capsys.readouterr().out


def test_unknown_models_are_refused_before_any_training(options):
    main = load_script("benchmarks/large_vocabulary.py").main
    with pytest.raises(ValueError, match="Received: 'reader_2'"):
        main([*options, "--models", "sampled", "reader_2"])


def test_best_learning_rate_and_a_result_for_each_budget(options, capsys):
    main = load_script("benchmarks/large_vocabulary.py").main
    options += ["--learning-rates", "0.01", "1e-9", "--seconds", "0.1", "0.2", "--cpu-time"]
    options += ["--tuning-seconds", "0.3", "--no-jit-compile"]
    main([*options, "--worker", "reader"])
    output = capsys.readouterr()
    tuned = dict(re.findall(r"rate (\S+): (\S+) after", output.err))
    results = json.loads(output.out.splitlines()[-1])
    assert [result["budget"] for result in results] == [0.1, 0.2]
    assert len(tuned) == 2
    [rate] = {result["learning_rate"] for result in results}
    # Both may have the same perplexity, as it is printed.
    perplexities = {float(rate): float(perplexity) for rate, perplexity in tuned.items()}
    assert perplexities[rate] == min(perplexities.values())
