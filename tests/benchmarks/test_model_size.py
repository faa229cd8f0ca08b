"""The benchmark of large models and their LiteRT files, at the size of some hundred words."""

from __future__ import annotations

import re
from argparse import Namespace

import numpy as np
import pytest
from scripts import load_script

from keras_lightrnn.serving import export_litert

pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")


def test_every_precision_is_measured(monkeypatch, capsys):
    script = load_script("benchmarks/model_size.py")
    monkeypatch.setattr(script, "run_apart", lambda function, *values: function(*values))
    options = ["--vocabulary-size", "70000", "--units", "4", "--layers", "1", "--tables", "2"]
    script.main([*options, "--row-reading", "gate", "--gate-dim", "8"])
    printed = capsys.readouterr().out
    assert "70,000 words in 2 table(s) of 265 x 265 cells" in printed
    parameters = int(re.search(r"([\d,]+) parameters", printed)[1].replace(",", ""))
    lines = [line.split(" | ") for line in printed.splitlines() if line.startswith("| LiteRT")]
    assert [line[0] for line in lines] == ["| LiteRT float32", "| LiteRT float16", "| LiteRT int8"]
    for line, num_bytes in zip(lines, (4, 2, 1), strict=True):
        # The cells of the second table, and 70 kB that are not weights.
        expected = (num_bytes * parameters + 3 * 265**2) / 1e6
        assert expected - 0.05 < float(line[1]) < expected + 0.12
        num_read, num_rows = map(int, line[6].split(" of "))
        assert 0 < num_read < num_rows == 2 * 265


@pytest.mark.parametrize(
    ("tables", "size", "row_reading"),
    [(1, 870, "half-steps"), (1, 900, "gate"), (2, 870, "gate-and-shift"), (3, 900, "gate")],
)
def test_best_words_are_those_of_the_model(rng, tmp_path, tables, size, row_reading):
    script = load_script("benchmarks/model_size.py")
    sizes = {"vocabulary_size": size, "units": 8, "layers": 1, "gate_dim": None, "tables": tables}
    model = script.make_model(
        Namespace(row_reading=row_reading, steepness=1.0, tie_embeddings=tables == 2, **sizes)
    )
    for weight in model.trainable_weights:  # so that each text has a distribution of its own
        weight.assign(np.array(weight) + rng.normal(scale=0.5, size=weight.shape))
    phone = script.Phone(str(export_litert(model, tmp_path / "model.tflite")), size)
    for prefix in rng.integers(size, size=(6, 5)):
        expected, log_probs = model.next_words(prefix, script.NUM_BEST)
        for may_stop in (True, False):
            words, probs, num_read = phone.find_best(prefix, may_stop)
            assert words.tolist() == expected.tolist()
            assert np.log(probs) == pytest.approx(log_probs, abs=1e-4)
            assert num_read < 30 * tables if may_stop else num_read >= 29 * tables
        assert np.log(probs) == pytest.approx(model.word_log_probs(prefix)[words], abs=1e-4)
