"""Which assignment problem does a trained language model pose?

Trains a LightRNN on a text and writes down the statistics of its last epoch, from which the
cost of every word in every cell follows, for `assignment.py --statistics FILE.npz`:

    python benchmarks/dump_statistics.py --text train.txt.gz valid.txt.gz --output ptb.npz
    python benchmarks/assignment.py --statistics ptb.npz

The file holds `row_features (V, K)`, `row_vectors (R, K)`, `column_features (V, K)`,
`column_vectors (C, K)`, and the table that the model was trained with: `cells (V,)`, `num_rows`,
`num_columns`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.assignment.solver import AssignmentSolver, SolverRun
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.data import Vocabulary, read_lines, token_windows
from keras_lightrnn.reallocation import LikelihoodObjective


class Dump(AssignmentSolver):
    """Writes the problem down instead of solving it."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def improve(self, run: SolverRun) -> tuple[str, str]:
        names = ("row_features", "row_vectors", "column_features", "column_vectors")
        np.savez(
            self.path,
            **dict(zip(names, run.problem.factors, strict=True)),
            cells=run.allocation.cells,
            num_rows=run.problem.num_rows,
            num_columns=run.problem.num_columns,
        )
        return "converged", f"Written to {self.path}; the allocation is the one given."


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
    parser.add_argument("--max-words", type=int, help="train on at most this many words")
    parser.add_argument("--vocabulary-size", type=int, help="most words (default: all)")
    parser.add_argument("--units", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--sequence-length", type=int, default=35, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=0.004, help="default: %(default)s")
    parser.add_argument(
        "--allocation",
        choices=("random", "cooccurrence"),
        default="random",
        help="table to train with (default: %(default)s, as in the paper)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    keras.utils.set_random_seed(args.seed)

    vocabulary = Vocabulary.from_lines(read_lines(args.text[0]), max_size=args.vocabulary_size)
    size = len(vocabulary)
    texts = [vocabulary.encode_lines(read_lines(path)) for path in args.text[:2]]
    texts[0] = texts[0][: args.max_words]
    print(f"{len(texts[0]):,} words of text, vocabulary of {size:,}", flush=True)

    if args.allocation == "random":
        allocation = Allocation.random(size, seed=args.seed)
    else:
        allocation = Allocation.from_cooccurrence(texts[0], size, seed=args.seed)
    model = LightRNNModel(allocation, embedding_dim=args.units, units=args.units, stateful=True)
    model.compile(keras.optimizers.Adam(args.learning_rate, global_clipnorm=1.0))
    windows = [
        token_windows(words, args.batch_size, args.sequence_length, vocabulary_size=size)
        for words in texts
    ]
    model.fit(
        windows[0],
        validation_data=windows[1] if len(windows) > 1 else None,
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
