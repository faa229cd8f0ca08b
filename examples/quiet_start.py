"""Import TensorFlow without its notes about drivers and instruction sets.

TensorFlow logs to the standard error stream while it is imported, before it reads
`TF_CPP_MIN_LOG_LEVEL`. Importing this module first imports TensorFlow and drops those notes.
Whatever else is written in the meantime is passed on. Set `TF_CPP_MIN_LOG_LEVEL=0` to see
everything.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile

# Notes and warnings of absl, such as "I0000 00:00:1795876041.281468   13706 port.cc:153] ...",
# and those of TensorFlow before 2.21, such as "2026-11-28 10:00:00.000000: I tensorflow/...".
_NOTE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\)|"
    rb"[IWE]\d{4} \d\d:\d\d:\d+|"
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |"
    rb"To enable the following instructions: "
)


def _import_tensorflow() -> None:
    import tensorflow  # noqa: F401


def _import_tensorflow_quietly() -> None:
    sys.stderr.flush()
    stream = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            _import_tensorflow()
        finally:
            sys.stderr.flush()
            os.dup2(stream, 2)
            held.seek(0)
            for line in held:
                if not _NOTE.match(line):
                    os.write(stream, line)
            os.close(stream)


if "TF_CPP_MIN_LOG_LEVEL" in os.environ:  # the user decides
    _import_tensorflow()
else:
    # Level 3 leaves fatal errors. Without a GPU, level 2 would show a failed call to cuInit.
    # Errors of operations are Python exceptions on every level.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    _import_tensorflow_quietly()
