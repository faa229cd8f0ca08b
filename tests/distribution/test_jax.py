from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scripts import make_environment_of_jax, run_python

SCRIPT = Path(__file__).parent / "jax_run.py"


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_data_parallel_equals_one_device(tmp_path):
    environment = make_environment_of_jax("--xla_force_host_platform_device_count=2")
    run_python(SCRIPT, tmp_path / "results.npz", environment=environment, timeout=300)
    with np.load(tmp_path / "results.npz") as file:
        results = dict(file)
    assert (results["one/reallocation_moved"] > 0).all(), "or the test asks little"
    for name, values in results.items():
        kind, name = name.split("/")
        if kind == "one":
            assert results[f"two/{name}"] == pytest.approx(values, rel=1e-5, abs=1e-5), name
