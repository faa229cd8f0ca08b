"""Graphs and programs that run a few times: less is made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable


def prepare_process() -> None:
    """Let a process that trains small models spend less on graphs that run a few times.

    Processes whose results are compared bit for bit do the same.
    """
    import tensorflow as tf

    keep_no_stacks()
    # To optimize a graph takes a quarter of the time of a process that trains.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def keep_no_stacks() -> None:
    """Make operations of graphs without the Python stack that made them.

    TensorFlow stores the stack of each operation and looks up the files and lines of its frames,
    of which pytest adds some forty: a quarter of the time of a test that traces. Error messages
    lose the line "Detected at node ... defined at".
    """
    from tensorflow.python.framework import ops

    assert hasattr(ops, "_create_c_op")
    ops._create_c_op = functools.partial(ops._create_c_op, extract_traceback=False)


def trace_without_xla(set_attribute: Callable[..., None] = setattr) -> None:
    """Run the compiled operations of the package as parts of the graph around them.

    They compute the same. XLA compiles some programs for each set of shapes, a fifth of the time
    of a test that trains.
    """
    from keras_lightrnn.ops import compiled_op

    assert hasattr(compiled_op, "is_watched_by_tensorflow")
    set_attribute(compiled_op, "is_watched_by_tensorflow", lambda: True)
