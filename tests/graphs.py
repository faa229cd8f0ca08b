"""Graphs of tests: fewer things are noted of them."""

from __future__ import annotations

import functools


def keep_no_stacks() -> None:
    """Make operations of graphs without the Python stack that made them.

    TensorFlow stores the stack of each operation and looks up the files and lines of its frames,
    of which pytest adds some forty: a quarter of the time of a test that traces. Error messages
    lose the line "Detected at node ... defined at".
    """
    from tensorflow.python.framework import ops

    assert hasattr(ops, "_create_c_op")
    ops._create_c_op = functools.partial(ops._create_c_op, extract_traceback=False)
