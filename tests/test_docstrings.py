"""The examples in docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib

import pytest
from modules import list_modules

# Their examples need a corpus or the network.
NEED_DATA = {"PythonDocstrings", "from_tfds", "tfds_lines"}


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
