"""Scripts beside the package: as modules, and in processes of their own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


def load_script(name: str) -> ModuleType:
    """Import a script by its path in the repository, such as `"examples/serve.py"`."""
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as when it is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def make_environment(**variables: str) -> dict[str, str]:
    """Return the environment of a process that imports this copy of the package, and tests."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": path, **variables}


def make_environment_of_jax(*xla_flags: str) -> dict[str, str]:
    """Return the environment of a process that trains on JAX.

    Most of its time is that of compilers, whose programs run a few times.
    """
    flags = list(xla_flags)
    if Version(version("jax")) >= Version("0.10"):  # XLA ends at an option that it does not know
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    return make_environment(
        KERAS_BACKEND="jax",
        JAX_PLATFORMS="cpu",
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
        XLA_FLAGS=" ".join(flags),
    )


def run_python(
    *arguments: str | Path, environment: dict[str, str], timeout: int, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python in a process, which must succeed, and return what it printed."""
    process = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return process
