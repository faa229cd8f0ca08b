"""On JAX the variables of a model hold no values while `fit` runs, unless `self.model` is read."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from scripts import make_environment_of_jax, run_python

SCRIPT = Path(__file__).parent / "reading_run.py"


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_a_model_by_another_name_than_self_model_is_refused_by_name(tmp_path):
    path = tmp_path / "results.json"
    run_python(SCRIPT, path, environment=make_environment_of_jax(), timeout=300)
    results = json.loads(path.read_text())
    before = results["before"]
    assert not [x for x in before.values() if isinstance(x, str)]
    for name in ("self.model", "after self.model", "after"):
        assert results[name] == before, name
    for name, error in results["by another name"].items():
        assert isinstance(error, str), name
        assert error.startswith("RuntimeError: "), f"{name}: {error}"
        assert "holds the values elsewhere" in error, name
        assert "read `self.model`" in error, name
