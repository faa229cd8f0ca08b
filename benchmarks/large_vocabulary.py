"""Perplexity after equal time on large vocabularies: LightRNN and the usual alternatives.

    python benchmarks/large_vocabulary.py --text train.txt valid.txt test.txt \\
        --seconds 600 1200 2400 --json results.json --plot results.svg
    python benchmarks/large_vocabulary.py --text train.txt valid.txt test.txt --units 512 \\
        --models readerx2 sampled adaptive --seconds 600

Every model is an LSTM of the same size over the same windows, trained by Adam with a cosine
schedule. Each model has a process, and each budget a training from the same initial weights, for
as many steps as fit. The time in which the model is made counts, because tables are clustered
then; compilation and evaluation do not. With `--cpu-time` the budgets are CPU time of the process,
for machines that do other work too; restrict it to one thread then. The models:

- half-steps, reader, reader-4, readerx2 ...: `LightRNNModel`, named as in `row_reading.py`;
  with `+K` at the end, the frequent words (`--num-word-vectors`) have word vectors of size `K`;
- sampled: a vector for each word in Keras, trained by `tf.nn.sampled_softmax_loss` and evaluated
  by the full softmax;
- adaptive: PyTorch's `AdaptiveLogSoftmaxWithLoss` and an adaptive input;
- full: a vector for each word in Keras and the full softmax.

Words that the training text lacks have no weight for any model. The learning rate is the one with
the lowest validation perplexity after short trainings (`--tuning-seconds`). Memory is the largest
resident size of the process above that before the model was made. PyTorch and TensorFlow do not
work in one process everywhere, so the process of the adaptive softmax has no TensorFlow.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from language_model import (
    StepTimer,
    add_tie_arguments,
    compile_model,
    make_light_rnn,
    make_windows,
    read_splits,
)
from peak_memory import get_peak_gigabytes
from row_reading import parse_name

from keras_lightrnn.data import contiguous_windows

# Steps that are timed before a training, after some that compile and warm up.
_WARM_UP_STEPS, _TIMED_STEPS = 4, 12
# Each cluster of the adaptive softmax and input has vectors of this share of the size before.
_CLUSTER_SHRINKS = 4
# Largest number of logits that a full softmax holds at a time.
_MOST_LOGITS = 1 << 26


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", nargs=3, required=True, metavar=("TRAIN", "VALID", "TEST"))
    parser.add_argument("--vocabulary-size", type=int, help="most words (default: all)")
    parser.add_argument("--max-words", type=int, help="train on so many words at most")
    parser.add_argument("--eval-words", type=int, help="evaluate on so many words at most")
    parser.add_argument("--units", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--num-layers", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--sequence-length", type=int, default=35, help="default: %(default)s")
    parser.add_argument("--num-word-vectors", type=int, default=50_000)
    add_tie_arguments(parser)
    parser.add_argument("--num-sampled", type=int, default=1_024, help="default: %(default)s")
    parser.add_argument(
        "--cutoffs",
        nargs="+",
        type=int,
        default=[2_000, 10_000, 60_000],
        help="where the clusters of the adaptive softmax end, default: %(default)s",
    )
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[0.001, 0.002, 0.004])
    parser.add_argument("--seconds", nargs="+", type=float, default=[600.0])
    parser.add_argument(
        "--tuning-seconds",
        type=float,
        help="choose the learning rate by trainings so long (default: a tenth of the least budget)",
    )
    parser.add_argument("--cpu-time", action="store_true", help="count CPU time")
    parser.add_argument(
        "--jit-compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compile whole steps of `LightRNNModel` by XLA",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--models",
        nargs="+",
        default=["half-steps", "reader", "readerx2", "readerx2+16", "sampled", "adaptive"],
    )
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--plot", type=Path, help="draw test perplexity over time (Matplotlib)")
    parser.add_argument("--worker", metavar="MODEL")
    return parser


def choose_clock(args: argparse.Namespace) -> Callable[[], float]:
    return time.process_time if args.cpu_time else time.perf_counter


# The models that are trained by Keras: each takes windows and returns log-probabilities.


def split_name(name: str) -> tuple[str, int]:
    """Return the name of a LightRNN without its word vectors, and their size."""
    match = re.fullmatch(r"(.+?)(?:\+(\d+))?", name)
    assert match is not None
    return match[1], int(match[2] or 0)


def make_table_model(name: str, train: np.ndarray, size: int, args: argparse.Namespace) -> Any:
    from keras_lightrnn import Allocation

    base, args.word_dim = split_name(name)
    reading, num_components, num_tables = parse_name(base)
    args.num_word_vectors = min(args.num_word_vectors, size) if args.word_dim else None
    tables = Allocation.from_cooccurrence(train, size, seed=args.seed, num_tables=num_tables)
    return make_light_rnn(tables, train, args.word_dim, args, reading, num_components)


def make_vector_model(counts: np.ndarray, args: argparse.Namespace, is_sampled: bool) -> Any:
    """Return an LSTM with an input vector and an output vector for each word.

    Its bias starts as the log of the counts. A sampled softmax would leave that of rare words where
    it is for long, while it moves the others.
    """
    import keras
    import tensorflow as tf

    size = len(counts)

    def compute_losses(kernel: Any, bias: Any, targets: Any, hidden: Any) -> Any:
        """Return the exact losses, of some words at a time."""

        def compute_some(part: Any) -> Any:
            logits = tf.matmul(part[1], kernel, transpose_b=True) + bias
            return tf.nn.sparse_softmax_cross_entropy_with_logits(part[0], logits)

        num_words = tf.shape(targets)[0]
        at_once = tf.minimum(num_words, max(1, _MOST_LOGITS // size))
        rest = -num_words % at_once
        targets = tf.reshape(tf.pad(targets, [[0, rest]]), (-1, at_once))
        hidden = tf.reshape(tf.pad(hidden, [[0, rest], [0, 0]]), (-1, at_once, args.units))
        losses = tf.map_fn(compute_some, (targets, hidden), fn_output_signature=tf.float32)
        return tf.reshape(losses, [-1])[:num_words]

    class VectorModel(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = keras.layers.Embedding(size, args.units)
            self.lstms = [
                keras.layers.LSTM(args.units, return_sequences=True, stateful=True)
                for _ in range(args.num_layers)
            ]
            self.drop = keras.layers.Dropout(args.dropout)
            self.kernel = self.add_weight(
                shape=(size, args.units), name="kernel", initializer="glorot_uniform"
            )
            self.bias = self.add_weight(shape=(size,), name="bias", initializer="zeros")
            self.bias.assign(np.log(np.maximum(counts, 0.5)))

        def call(self, windows: Any, training: bool = False) -> Any:
            x = self.embedding(windows[:, :-1])
            for lstm in self.lstms:
                x = lstm(self.drop(x, training=training))
            hidden = tf.reshape(self.drop(x, training=training), (-1, args.units))
            targets = tf.reshape(windows[:, 1:], [-1])
            weights = self.kernel.value, self.bias.value
            if training and is_sampled:
                losses = tf.nn.sampled_softmax_loss(
                    *weights, targets[:, None], hidden, args.num_sampled, size
                )
            else:
                losses = compute_losses(*weights, targets, hidden)
            return -tf.reshape(losses, tf.shape(windows[:, 1:]))

        def reset_states(self) -> None:
            for lstm in self.lstms:
                lstm.reset_states()

    model = VectorModel()
    model(np.zeros((args.batch_size, args.sequence_length + 1), "int32"))
    return model


class KerasContestant:
    """A model that takes windows and returns the log-probabilities of their words."""

    def __init__(self, name: str, splits: list[np.ndarray], size: int, args: Any) -> None:
        import keras

        from keras_lightrnn.losses import NegativeLogLikelihood
        from keras_lightrnn.metrics import Perplexity

        keras.utils.set_random_seed(args.seed)
        self.args = copy.copy(args)
        self.compile_options: dict[str, Any] = {}
        if name not in ("sampled", "full"):
            self.model = make_table_model(name, splits[0], size, args)
        else:
            self.args.jit_compile = False  # XLA has no sampler on CPUs
            counts = np.bincount(splits[0], minlength=size)
            self.model = make_vector_model(counts, args, name == "sampled")
            self.compile_options = {
                "loss": NegativeLogLikelihood(),
                "weighted_metrics": [Perplexity()],
            }
        self.model.build((args.batch_size, args.sequence_length + 1))
        self.initial = self.model.get_weights()

    @property
    def num_parameters(self) -> int:
        return sum(int(np.prod(weight.shape)) for weight in self.model.trainable_weights)

    def train(self, windows: Any, num_steps: int, rate: float) -> list[float]:
        """Train from the initial weights, and return the seconds of each step."""
        self.model.set_weights(self.initial)
        self.args.learning_rate = rate
        compile_model(self.model, num_steps, self.args, **self.compile_options)
        seconds: list[float] = []
        while len(seconds) < num_steps:
            timer = StepTimer(choose_clock(self.args))
            self._reset()
            part = windows.take(num_steps - len(seconds))
            self.model.fit(part, shuffle=False, verbose=0, callbacks=[timer])
            seconds += timer.seconds
        return seconds

    def evaluate(self, windows: Any) -> float:
        self._reset()
        return self.model.evaluate(windows, verbose=0, return_dict=True)["perplexity"]

    def _reset(self) -> None:
        if hasattr(self.model, "lstms"):  # `LightRNNModel` does it by itself
            self.model.reset_states()


class AdaptiveContestant:
    """PyTorch's adaptive softmax, and an input whose rarer words have smaller vectors."""

    def __init__(self, name: str, splits: list[np.ndarray], size: int, args: Any) -> None:
        import torch
        from torch import nn

        torch.manual_seed(args.seed)
        # Moments of rare words decay to denormal numbers, which take many times as long. TensorFlow
        # sets them to zero by itself.
        torch.set_flush_denormal(True)
        self.torch, self.args, self.clock = torch, args, choose_clock(args)
        self.is_known = np.bincount(splits[0], minlength=size) > 0
        cutoffs = [cutoff for cutoff in args.cutoffs if cutoff < size]
        starts = [0, *cutoffs]
        dims = [max(args.units // _CLUSTER_SHRINKS**i, 1) for i in range(len(starts))]
        sizes = np.diff([*starts, size])
        self.starts = torch.tensor(starts)
        self.embeddings = nn.ModuleList(
            nn.Embedding(int(n), dim, sparse=True) for n, dim in zip(sizes, dims, strict=True)
        )
        self.projections = nn.ModuleList(nn.Linear(dim, args.units, bias=False) for dim in dims)
        self.lstm = nn.LSTM(
            args.units, args.units, args.num_layers, batch_first=True, dropout=args.dropout
        )
        self.drop = nn.Dropout(args.dropout)
        self.output = nn.AdaptiveLogSoftmaxWithLoss(args.units, size, cutoffs, _CLUSTER_SHRINKS)
        self.modules = nn.ModuleList(
            [self.embeddings, self.projections, self.lstm, self.output, self.drop]
        )
        self.initial = {key: x.clone() for key, x in self.modules.state_dict().items()}

    @property
    def num_parameters(self) -> int:
        return sum(weight.numel() for weight in self.modules.parameters())

    def train(self, windows: Any, num_steps: int, rate: float) -> list[float]:
        torch = self.torch
        self.modules.load_state_dict(self.initial)
        self.modules.train()
        dense = [p for m in (self.projections, self.lstm, self.output) for p in m.parameters()]
        optimizers = [
            torch.optim.SparseAdam(list(self.embeddings.parameters()), rate),
            torch.optim.Adam(dense, rate, fused=True),
        ]
        schedules = [
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps, 0.02 * rate)
            for optimizer in optimizers
        ]
        seconds: list[float] = []
        while len(seconds) < num_steps:
            states = None
            for index in range(min(len(windows), num_steps - len(seconds))):
                window, weights = self._weigh(*windows[index])
                start = self.clock()
                for optimizer in optimizers:
                    optimizer.zero_grad()
                log_probs, states = self._compute_log_probs(window, states)
                loss = -(log_probs * torch.from_numpy(weights)).sum() / weights.sum()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(dense, 1.0)
                for optimizer in optimizers:
                    optimizer.step()
                for schedule in schedules:
                    schedule.step()
                seconds.append(self.clock() - start)
        return seconds

    def evaluate(self, windows: Any) -> float:
        self.modules.eval()
        nats = total = 0.0
        states = None
        with self.torch.no_grad():
            for batch in windows:
                window, weights = self._weigh(*batch)
                log_probs, states = self._compute_log_probs(window, states)
                nats -= float((log_probs.numpy() * weights).sum(dtype=np.float64))
                total += float(weights.sum())
        return float(np.exp(nats / total))

    def _weigh(self, window: Any, targets: Any, weights: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(window), np.asarray(weights * self.is_known[targets], np.float32)

    def _compute_log_probs(self, window: np.ndarray, states: Any) -> tuple[Any, Any]:
        words = self.torch.from_numpy(window).long()
        x, states = self.lstm(self.drop(self._embed(words[:, :-1])), states)
        hidden = self.drop(x).reshape(-1, self.args.units)
        log_probs = self.output(hidden, words[:, 1:].reshape(-1)).output
        return log_probs.reshape(words.shape[0], -1), [state.detach() for state in states]

    def _embed(self, words: Any) -> Any:
        clusters = self.torch.bucketize(words, self.starts, right=True) - 1
        vectors = self.torch.zeros(*words.shape, self.args.units)
        for index, (embedding, projection) in enumerate(
            zip(self.embeddings, self.projections, strict=True)
        ):
            is_here = clusters == index
            vectors[is_here] = projection(embedding(words[is_here] - self.starts[index]))
        return vectors


def choose_rate(contestant: Any, train: Any, valid: Any, num_steps: int, rates: Any) -> float:
    """Return the learning rate with the lowest validation perplexity after `num_steps`."""
    if len(rates) == 1:
        return rates[0]
    perplexities = {}
    for rate in rates:
        contestant.train(train, num_steps, rate)
        perplexities[rate] = contestant.evaluate(valid)
        print(f"rate {rate:g}: {perplexities[rate]:.1f} after {num_steps} steps", file=sys.stderr)
    return min(perplexities, key=perplexities.__getitem__)


def work(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train one model for each time, and return what was measured."""
    splits, size = read_splits(args)
    splits[1:] = [split[: args.eval_words] for split in splits[1:]]
    kind: Any = KerasContestant
    if args.worker == "adaptive":
        kind = AdaptiveContestant
        train, valid, test = (
            contiguous_windows(words, args.batch_size, args.sequence_length) for words in splits
        )
    else:
        train, valid, test = make_windows(splits, size, args)
    gigabytes = get_peak_gigabytes()
    clock = choose_clock(args)
    start = clock()
    contestant = kind(args.worker, splits, size, args)
    preparation_seconds = clock() - start
    timed = contestant.train(train, _WARM_UP_STEPS + _TIMED_STEPS, args.learning_rates[0])
    step = float(np.median(timed[_WARM_UP_STEPS:]))
    tuning_seconds = args.tuning_seconds or min(args.seconds) / 10
    num_steps = max(1, int(tuning_seconds / step))
    rate = choose_rate(contestant, train, valid, num_steps, args.learning_rates)
    results = []
    for budget in args.seconds:
        num_steps = max(1, int((budget - preparation_seconds) / step))
        seconds = contestant.train(train, num_steps, rate)
        results.append(
            {
                "model": args.worker,
                "learning_rate": rate,
                "budget": budget,
                "preparation_seconds": preparation_seconds,
                "seconds": sum(seconds),
                "steps": num_steps,
                "words_per_second": args.batch_size * args.sequence_length / np.median(seconds),
                "parameters": contestant.num_parameters,
                "gigabytes": get_peak_gigabytes() - gigabytes,
                "validation": contestant.evaluate(valid),
                "test": contestant.evaluate(test),
            }
        )
    return results


def run_apart(name: str, argv: Sequence[str]) -> list[dict[str, Any]]:
    """Do what `work` does in another process."""
    root = Path(__file__).resolve().parent.parent
    backend = "torch" if name == "adaptive" else "tensorflow"
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [sys.executable, __file__, *argv, "--worker", name],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw test perplexity over the budgets, a line for each model."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    for name in dict.fromkeys(result["model"] for result in results):
        points = [(r["budget"] / 60, r["test"]) for r in results if r["model"] == name]
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.set(xlabel="minutes", ylabel="test perplexity", xscale="log", yscale="log")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    argv = sys.argv[1:] if argv is None else argv
    args = make_parser().parse_args(argv)
    if args.worker:
        print(json.dumps(work(args)))
        return []
    for name in args.models:
        if name not in ("sampled", "adaptive", "full"):
            parse_name(split_name(name)[0])
    results = []
    print(f"\n{args.units} units\n")
    print("| model | budget | rate | made in | words/s | words read | parameters | GB ", end="")
    print("| valid. | test |\n|---|---|---|---|---|---|---|---|---|---|")
    for name in args.models:
        for run in run_apart(name, argv):
            results.append(run)
            words = run["steps"] * args.batch_size * args.sequence_length
            print(
                f"| {name} | {run['budget']:g} s | {run['learning_rate']:g} "
                f"| {run['preparation_seconds']:.0f} s | {run['words_per_second']:,.0f} "
                f"| {words:,} | {run['parameters']:,} | {run['gigabytes']:.2f} "
                f"| {run['validation']:.1f} | {run['test']:.1f} |",
                flush=True,
            )
        if args.json:
            args.json.write_text(json.dumps(results, indent=1), "utf-8")
        if args.plot:
            plot(results, args.plot)
    return results


if __name__ == "__main__":
    main()
