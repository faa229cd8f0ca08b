"""The examples in docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import keras_lightrnn

PACKAGE = Path(keras_lightrnn.__file__).parent


# Their examples need a corpus or the network.
NEED_DATA = {"PythonDocstrings", "from_tfds", "tfds_lines"}


def list_modules() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


@pytest.mark.parametrize("name", list_modules())
def test_examples_run(name):
    module = importlib.import_module(name)
    report: list[str] = []
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def list_public_names() -> list[tuple[str, str]]:
    return [
        (name, public)
        for name in list_modules()
        for public in getattr(importlib.import_module(name), "__all__", [])
    ]


@pytest.mark.parametrize(("module", "name"), list_public_names())
def test_every_public_name_has_an_example(module, name):
    value = getattr(importlib.import_module(module), name)
    if callable(value):
        assert value.__doc__, "no docstring"
        assert ">>>" in value.__doc__ or name in NEED_DATA, "no example"
