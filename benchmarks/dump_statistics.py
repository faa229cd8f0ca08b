"""Writes the assignment problem of a trained language model to a file.

Trains a LightRNN on a text and writes the statistics of its last epoch, which determine the cost of
every word in every cell, for `assignment.py --statistics FILE.npz`:

    python benchmarks/dump_statistics.py --text train.txt.gz valid.txt.gz --output ptb.npz
    python benchmarks/assignment.py --statistics ptb.npz

The file holds `row_features (V, K)`, `row_vectors (R, K)`, `column_features (V, K)`,
`column_vectors (C, K)`, and the table of the model: `cells (V,)`, `num_rows` and `num_columns`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from language_model import add_training_arguments, make_allocations, make_windows, read_splits

from keras_lightrnn import LightRNNModel
from keras_lightrnn.assignment import AssignmentStatus
from keras_lightrnn.assignment.solver import AssignmentSolver, SolverRun
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.reallocation import LikelihoodObjective


class Dump(AssignmentSolver):
    """Writes the problem to a file instead of solving it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def improve(self, run: SolverRun) -> tuple[AssignmentStatus, str]:
        names = ("row_features", "row_vectors", "column_features", "column_vectors")
        np.savez(
            self.path,
            **dict(zip(names, run.problem.factors, strict=True)),
            cells=run.allocation.cells,
            num_rows=run.problem.num_rows,
            num_columns=run.problem.num_columns,
        )
        message = f"Written to {self.path}; the allocation is the one given."
        return AssignmentStatus.CONVERGED, message


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--text",
        nargs="+",
        required=True,
        metavar="FILE",
        help="training text, and validation text if any: a sentence a line; plain or gz",
    )
    parser.add_argument("--output", required=True, metavar="FILE.npz")
    add_training_arguments(parser)
    parser.set_defaults(epochs=1)
    parser.add_argument(
        "--allocation",
        choices=("random", "cooccurrence"),
        default="random",
        help="table to train with (default: %(default)s, as in the paper)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    keras.utils.set_random_seed(args.seed)

    splits, size = read_splits(args)
    [allocation] = make_allocations(args.allocation, splits[0], size, args.seed)
    model = LightRNNModel(
        allocation,
        embedding_dim=args.units,
        units=args.units,
        stateful=True,
        row_reading="recurrence",
    )
    model.compile(keras.optimizers.Adam(args.learning_rate, global_clipnorm=1.0))
    train, *others = make_windows(splits, size, args)
    model.fit(
        train,
        validation_data=others[0] if others else None,
        epochs=args.epochs,
        callbacks=[
            ReallocationCallback(
                LikelihoodObjective(Dump(args.output)),
                every=[args.epochs],
                verbose=0,
                at_end=True,
            )
        ],
        verbose="auto" if sys.stdout.isatty() else 2,
    )


if __name__ == "__main__":
    main()
