from __future__ import annotations

import numpy as np
from scripts import load_script

from keras_lightrnn import Allocation
from keras_lightrnn.assignment import AssignmentProblem


def test_writes_the_problem_of_the_last_epoch(tmp_path, rng):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{' '.join(map(str, rng.integers(9, size=6)))}\n" for _ in range(30)))
    output = tmp_path / "statistics.npz"
    options = ["--units", "3", "--epochs", "2", "--batch-size", "4", "--sequence-length", "5"]
    load_script("benchmarks/dump_statistics.py").main(
        ["--text", str(text), "--output", str(output), *options]
    )
    with np.load(output) as file:
        # Every word but the first is a target once an epoch.
        # Their counts go with the bias of the rows.
        assert file["row_features"][:, -1].sum() == 30 * 7 - 1
        sides = ("row_features", "row_vectors", "column_features", "column_vectors")
        problem = AssignmentProblem.from_factors(*(file[name] for name in sides))
        allocation = Allocation(file["cells"], int(file["num_rows"]), int(file["num_columns"]))
    assert np.isfinite(problem.compute_cost(allocation))
