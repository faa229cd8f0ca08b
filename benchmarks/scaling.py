"""Memory and time of a training step by the size of the vocabulary.

Each vocabulary is measured in a separate process, so that peak memory belongs to it:

    python benchmarks/scaling.py --vocabulary-sizes 10000 1000000 10240000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from peak_memory import get_peak_megabytes

# They trace and compile.
NUM_FIRST_STEPS = 2


def parse_steps(text: str) -> int:
    steps = int(text)
    if steps <= NUM_FIRST_STEPS:
        raise argparse.ArgumentTypeError(
            f"must be more than the {NUM_FIRST_STEPS} first ones, which are not timed. Received: "
            f"{steps}. Give more."
        )
    return steps


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vocabulary-sizes", type=int, nargs="+", default=[10_000, 1_000_000, 10_240_000]
    )
    parser.add_argument("--units", type=int, default=512, help="D = H (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--sequence-length", type=int, default=16)
    parser.add_argument("--steps", type=parse_steps, default=8)
    parser.add_argument("--word-bias", choices=("none", "counts"), default="none")
    return parser


def measure(args: argparse.Namespace, size: int) -> dict[str, Any]:
    import keras

    from keras_lightrnn import LightRNNModel

    before = get_peak_megabytes()
    model = LightRNNModel(
        size,
        args.units,
        args.units,
        word_bias=None if args.word_bias == "none" else "counts",
        row_reading="recurrence",
    )
    if args.word_bias == "counts":
        model.assign_word_counts(np.ones(size))
    model.compile("adam")
    rng = np.random.default_rng(0)
    shape = (args.steps * args.batch_size, args.sequence_length + 1)
    windows = rng.integers(size, size=shape).astype("int32")
    seconds = []

    class Timer(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seconds.append(time.perf_counter() - self.start)

    model.fit(windows, batch_size=args.batch_size, shuffle=False, callbacks=[Timer()], verbose=0)
    return {
        "vocabulary_size": size,
        "trainable_values": int(sum(np.prod(w.shape) for w in model.trainable_weights)),
        "fixed_values": int(sum(np.prod(w.shape) for w in model.non_trainable_weights)),
        "framework_megabytes": before,
        "peak_megabytes": get_peak_megabytes(),
        "step_milliseconds": 1e3 * float(np.median(seconds[NUM_FIRST_STEPS:])),
    }


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    if len(args.vocabulary_sizes) == 1:
        print(json.dumps(measure(args, args.vocabulary_sizes[0])))
        return
    print("        words  trainable  fixed (int32, float32)  peak MB  over framework  ms a step")
    for size in args.vocabulary_sizes:
        options = [
            f"--{name.replace('_', '-')}={value}"
            for name, value in vars(args).items()
            if name != "vocabulary_sizes"
        ]
        command = [sys.executable, __file__, *options, f"--vocabulary-sizes={size}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        print(
            f"{row['vocabulary_size']:13,} {row['trainable_values']:10,} {row['fixed_values']:23,} "
            f"{row['peak_megabytes']:8,.0f} "
            f"{row['peak_megabytes'] - row['framework_megabytes']:15,.0f} "
            f"{row['step_milliseconds']:10.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
