"""What tests of benchmarks share."""

from __future__ import annotations

import pytest


@pytest.fixture
def sentences(tmp_path):
    """Options that name files of two sentences for training, validation and test."""
    paths = []
    for name, repeats in (("train", 60), ("valid", 8), ("test", 8)):
        paths.append(tmp_path / f"{name}.txt")
        paths[-1].write_text("the cat sat on the mat\nthe dog sat on the log\n" * repeats, "utf-8")
    return ["--text", *map(str, paths)]
