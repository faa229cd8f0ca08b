from __future__ import annotations

from scripts import load_script

OPTIONS = ["--vocabulary-size", "30", "--sequence-length", "6", "--num-layers", "1", "--dim", "8"]


def test_both_forms_are_timed_for_each_batch_size(capsys):
    benchmark = load_script("benchmarks/transformer_step.py")
    results = benchmark.main([*OPTIONS, "--batch-sizes", "2", "3", "--steps", "1", "--rounds", "1"])
    assert list(results) == [2, 3]
    for medians in results.values():
        assert set(medians) == {"half-steps", "states"}
        assert min(medians.values()) > 0
    assert capsys.readouterr().out.count("ratio") == 2
