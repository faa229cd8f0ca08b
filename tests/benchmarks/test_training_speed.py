from __future__ import annotations

import pytest
from scripts import load_script

NAME = "benchmarks/training_speed.py"
pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def no_xla():
    """Leave XLA on: it is a part of what is timed."""


def test_ratios_hold():
    """Ratios of one run, well under those measured on a quiet machine (see README)."""
    benchmark = load_script(NAME)
    names = ["lightrnn", "lightrnn, XLA", "keras half-steps", "keras half-steps, XLA"]
    results = benchmark.measure(benchmark.QUICK_SIZE, names, rounds=5, steps=3)
    seconds = {name: result["seconds"] for name, result in results.items()}
    best_of_keras = min(seconds[name] for name in names[2:])
    assert seconds["lightrnn"] < 0.75 * best_of_keras
    # A step that XLA compiles anew each time, or a product it does not see, costs far more.
    assert seconds["lightrnn, XLA"] < 1.5 * seconds["lightrnn"]  # 1.2 on a quiet machine


def test_cost_of_a_word_grows_slower_than_the_square_root_of_the_vocabulary():
    benchmark = load_script(NAME)
    sizes = {size: f"16,20,128,{size}" for size in (10_000, 1_000_000)}
    small, large = (
        benchmark.measure(size, ["lightrnn"], rounds=3, steps=3)["lightrnn"]["seconds"]
        for size in sizes.values()
    )
    assert large / small < 10
