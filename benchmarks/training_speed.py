"""Speed of training of LightRNN and of other language models over a large vocabulary.

Prints one table for each size `B,T,H,V` (windows of `T` words, `D = H`): the words/s of whole
training steps with Adam, the ratio to the fastest, and the peak memory of the process. All
contestants read the same windows, whose words follow Zipf's law. Each contestant runs in its own
process. The processes alternate, a few steps each, for `--rounds` rounds. The table shows medians
over all steps. Run nothing else at the same time.

- lightrnn: `LightRNNModel` with half-steps, and in a step that XLA compiles as a whole.
- reader: `LightRNNModel` with default options, one step a word.
- layers: `TwoComponentEmbedding` and `TwoComponentSoftmax` in the place of `Embedding` and `Dense`,
  around `keras.layers.LSTM` and around `RecurrentStack`.
- keras half-steps: the same model on `keras.layers.LSTM`, with XLA off and on, and unrolled.
- keras full, keras sampled: `Embedding` and `LSTM` over words, then all `V` logits, or
  `tf.nn.sampled_softmax_loss` with 1,024 samples.
- torch half-steps, torch adaptive: `nn.LSTM` over half-steps, and over words with
  `AdaptiveLogSoftmaxWithLoss`; sparse gradients where they help. Skipped without PyTorch.

`rate` is the arithmetic rate of the LightRNN step as a share of the machine's matrix-product rate,
which is measured in the same rounds. The arithmetic is three products for each product of the
forward pass; recomputation counts once. Contestants whose estimated memory is above
`--max-gigabytes` are left out. `--sweep` prints the cost of a word against the vocabulary.
`--statistics` prints the cost of the sums of a `ReallocationCallback`. This cost is smaller than
the difference between two processes, so one process alternates steps with and without the sums.

    python benchmarks/training_speed.py                      # the four sizes
    python benchmarks/training_speed.py --sizes 64,35,512,65000 --rounds 5
    python benchmarks/training_speed.py --quick              # under a minute, small
    python benchmarks/training_speed.py --sweep 10000 100000 1000000 10000000
    python benchmarks/training_speed.py --statistics --sizes 32,35,256,10000 --rounds 200
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peak_memory import get_peak_gigabytes

SIZES = ["64,35,512,65000", "32,35,256,10000", "128,35,512,250000", "100,32,1000,793000"]
QUICK_SIZE = "32,20,256,10000"
NUM_SAMPLED = 1024
MATMUL_SIZE = 2048

Step = Callable[[], float]  # a training step, or a product; returns something of its result


def make_windows(batch_size: int, length: int, vocabulary_size: int) -> np.ndarray:
    """Draw words by Zipf's law, the most frequent one first, as vocabularies are ordered.

    Adaptive and sampled softmaxes are fastest with such words.
    """
    uniform = np.random.default_rng(0).random((batch_size, length + 1))
    return ((vocabulary_size + 1) ** uniform - 1).astype("int32")


def count_flops(batch_size: int, length: int, units: int, vocabulary_size: int) -> float:
    """Return the floating-point operations that a LightRNN training step cannot avoid."""
    num_vectors = 2 * int(np.ceil(np.sqrt(vocabulary_size)))
    words = batch_size * length
    recurrence = 2 * words * units * 4 * units
    projection = num_vectors * units * 4 * units
    logits = words * units * num_vectors
    return 3 * 2.0 * (recurrence + projection + logits)


def estimate_gigabytes(name: str, size: Sequence[int]) -> float:
    """Estimate the memory of a contestant without its framework, from its largest arrays."""
    batch_size, length, units, vocabulary_size = size
    table = 4e-9 * vocabulary_size * units
    if name == "keras full":
        return 8 * table + 4 * 4e-9 * batch_size * length * vocabulary_size
    if name == "keras sampled":
        return 8 * table
    if name == "torch adaptive":  # sparse gradients; a fifth of the words are in the last cluster
        return 4 * table + 3 * 4e-9 * batch_size * length * vocabulary_size / 5
    return 8 * 4e-9 * 2 * batch_size * length * units * 5


# Contestants: each returns a step.


def make_keras_step(model: Any, inputs: Any, targets: np.ndarray | None = None) -> Step:
    import tensorflow as tf

    data = (inputs,) if targets is None else (inputs, targets)
    iterator = iter(tf.data.Dataset.from_tensors(data).repeat())
    model.make_train_function()
    return lambda: float(model.train_function(iterator)["loss"])


def make_light_rnn(
    size: Sequence[int],
    path: str,
    jit_compile: bool,
    unroll: bool = False,
    has_statistics: bool = False,
    row_reading: str = "recurrence",
) -> Step:
    from keras_lightrnn import LightRNNModel
    from keras_lightrnn.callbacks import ReallocationCallback

    batch_size, length, units, vocabulary_size = size
    model = LightRNNModel(
        vocabulary_size, units, units, recurrence_path=path, row_reading=row_reading
    )
    model.build((batch_size, length + 1))
    model.recurrent_layers[0].unroll = unroll
    model.compile("adam", jit_compile=jit_compile)
    if has_statistics:
        ReallocationCallback().set_model(model)
    return make_keras_step(model, make_windows(batch_size, length, vocabulary_size))


def make_layers(size: Sequence[int], has_stack: bool) -> Step:
    import keras

    from keras_lightrnn import WordTable
    from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
    from keras_lightrnn.losses import NegativeLogLikelihood
    from keras_lightrnn.recurrence import RecurrentStack

    batch_size, length, units, vocabulary_size = size
    table = WordTable(vocabulary_size)
    words, targets = (keras.Input((length,), batch_size, "int32") for _ in range(2))
    x = TwoComponentEmbedding(table, units)(words)
    if has_stack:
        x = RecurrentStack(units)(x)
    else:
        x = keras.layers.LSTM(units, return_sequences=True)(x)
    model = keras.Model([words, targets], TwoComponentSoftmax(table)(x, targets))
    model.compile("adam", NegativeLogLikelihood(), jit_compile=False)
    windows = make_windows(batch_size, length, vocabulary_size)
    inputs = (windows[:, :-1], windows[:, 1:])
    return make_keras_step(model, inputs, inputs[1])


def make_keras_full(size: Sequence[int]) -> Step:
    import keras

    batch_size, length, units, vocabulary_size = size
    words = keras.Input((length,), batch_size=batch_size, dtype="int32")
    x = keras.layers.Embedding(vocabulary_size, units)(words)
    x = keras.layers.LSTM(units, return_sequences=True)(x)
    model = keras.Model(words, keras.layers.Dense(vocabulary_size)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=True)
    windows = make_windows(batch_size, length, vocabulary_size)
    return make_keras_step(model, windows[:, :-1], windows[:, 1:])


def make_keras_sampled(size: Sequence[int]) -> Step:
    import keras
    import tensorflow as tf

    batch_size, length, units, vocabulary_size = size

    class SampledModel(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = keras.layers.Embedding(vocabulary_size, units)
            self.lstm = keras.layers.LSTM(units, return_sequences=True)
            self.kernel = self.add_weight(shape=(vocabulary_size, units), name="kernel")
            self.bias = self.add_weight(shape=(vocabulary_size,), name="bias")

        def call(self, windows: Any) -> Any:
            hidden = self.lstm(self.embedding(windows[:, :-1]))
            return tf.nn.sampled_softmax_loss(
                self.kernel.value,
                self.bias.value,
                tf.reshape(windows[:, 1:], (-1, 1)),
                tf.reshape(hidden, (-1, units)),
                NUM_SAMPLED,
                vocabulary_size,
            )

    windows = make_windows(batch_size, length, vocabulary_size)
    model = SampledModel()
    model(windows)
    # Keras's Adam takes sparse gradients and touches all rows; XLA has no sampler on CPU.
    model.compile("adam", lambda _, losses: tf.reduce_mean(losses), jit_compile=False)
    return make_keras_step(model, windows, np.zeros(windows.size - batch_size, "float32"))


def make_torch(size: Sequence[int], adaptive: bool) -> Step:
    import torch
    from torch import nn

    batch_size, length, units, vocabulary_size = size
    side = int(np.ceil(np.sqrt(vocabulary_size)))
    windows = torch.tensor(make_windows(batch_size, length, vocabulary_size)).long()
    targets = windows[:, 1:].reshape(-1)
    lstm = nn.LSTM(units, units, batch_first=True)
    embedding = nn.Embedding(vocabulary_size if adaptive else 2 * side, units, sparse=adaptive)
    if adaptive:
        cutoffs = [c for c in (2000, 10_000, 60_000) if c < vocabulary_size]
        output: nn.Module = nn.AdaptiveLogSoftmaxWithLoss(units, vocabulary_size, cutoffs)
    else:
        output = nn.ModuleList([nn.Linear(units, side), nn.Linear(units, side)])
        columns, rows = side + windows[:, :-1] % side, windows[:, 1:] // side
        half_steps = torch.stack([columns, rows], 2).reshape(batch_size, -1)
    dense = [*lstm.parameters(), *output.parameters()]
    if adaptive:
        optimizers = [torch.optim.SparseAdam(list(embedding.parameters()))]
    else:
        optimizers, dense = [], [*dense, *embedding.parameters()]
    optimizers.append(torch.optim.Adam(dense, fused=True))

    def step() -> float:
        for optimizer in optimizers:
            optimizer.zero_grad()
        if adaptive:
            hidden, _ = lstm(embedding(windows[:, :-1]))
            loss = output(hidden.reshape(-1, units), targets).loss
        else:
            hidden, _ = lstm(embedding(half_steps))
            entropy = nn.functional.cross_entropy
            loss = entropy(output[0](hidden[:, 0::2]).reshape(-1, side), targets // side)
            loss = loss + entropy(output[1](hidden[:, 1::2]).reshape(-1, side), targets % side)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return step


def make_matmul(size: Sequence[int]) -> Step:
    import tensorflow as tf

    x = tf.random.normal((MATMUL_SIZE, MATMUL_SIZE))
    product = tf.function(lambda x: tf.matmul(x, x), jit_compile=True)
    return lambda: float(product(x)[0, 0])


CONTESTANTS: dict[str, Callable[[Sequence[int]], Step]] = {
    "lightrnn": lambda size: make_light_rnn(size, "auto", False),
    "lightrnn, XLA": lambda size: make_light_rnn(size, "auto", True),
    "reader": lambda size: make_light_rnn(size, "auto", False, row_reading="reader"),
    "layers": lambda size: make_layers(size, has_stack=False),
    "layers, stack": lambda size: make_layers(size, has_stack=True),
    "keras half-steps": lambda size: make_light_rnn(size, "keras", False),
    "keras half-steps, XLA": lambda size: make_light_rnn(size, "keras", True),
    "keras half-steps, unrolled": lambda size: make_light_rnn(size, "keras", False, unroll=True),
    "keras full": make_keras_full,
    "keras sampled": make_keras_sampled,
    "torch half-steps": lambda size: make_torch(size, adaptive=False),
    "torch adaptive": lambda size: make_torch(size, adaptive=True),
}
ALL = {**CONTESTANTS, "matmul": make_matmul}


class Contestant:
    """A process that runs steps on request."""

    def __init__(self, name: str, size: str) -> None:
        self.name, self.seconds = name, []  # type: ignore[var-annotated]
        root = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker", name, "--sizes", size],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(root)},
        )
        self._ask(3)  # compiles and warms up

    def run(self, num_steps: int) -> None:
        self.seconds += self._ask(num_steps)["seconds"]

    def close(self) -> float:
        """End the process and return its peak memory in GB."""
        gigabytes = self._ask(0)["gigabytes"]
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        return gigabytes

    def _ask(self, num_steps: int) -> dict[str, Any]:
        self._process.stdin.write(f"{num_steps}\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"The contestant {self.name!r} died; see its error above.")
        return json.loads(line)


def work(name: str, size: Sequence[int]) -> None:
    """Read numbers of steps from standard input, and print the seconds of each step."""
    step = None
    for line in sys.stdin:
        if step is None:
            step = ALL[name](size)
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            value = step()
            seconds.append(time.perf_counter() - start)
            if not np.isfinite(value):
                raise ValueError(f"{name} computed {value}.")
        print(json.dumps({"seconds": seconds, "gigabytes": get_peak_gigabytes()}), flush=True)


def measure(
    size: str, names: Sequence[str], rounds: int, steps: int, max_gigabytes: float = np.inf
) -> dict[str, dict[str, float]]:
    """Return median seconds and peak gigabytes of each contestant, including the product rate."""
    numbers = parse_size(size)
    contestants = [
        Contestant(name, size)
        for name in [*names, "matmul"]
        if estimate_gigabytes(name, numbers) <= max_gigabytes
        and (not name.startswith("torch") or importlib.util.find_spec("torch"))
    ]
    for _ in range(rounds):
        for contestant in contestants:
            contestant.run(steps)
    return {
        contestant.name: {
            "seconds": statistics.median(contestant.seconds),
            "gigabytes": contestant.close(),
        }
        for contestant in contestants
    }


def print_table(size: str, results: dict[str, dict[str, float]]) -> None:
    batch_size, length, units, vocabulary_size = numbers = parse_size(size)
    rate = 2 * MATMUL_SIZE**3 / results["matmul"]["seconds"]
    fastest = min(result["seconds"] for name, result in results.items() if name != "matmul")
    print(f"\n### B={batch_size} T={length} D=H={units} V={vocabulary_size:,}")
    print(f"\nmatrix products: {rate / 1e9:.0f} GFlop/s\n")
    print("| | words/s | ms a step | times the fastest | peak GB | rate % |")
    print("|---|---|---|---|---|---|")
    for name, result in results.items():
        if name == "matmul":
            continue
        seconds = result["seconds"]
        is_light_rnn = name.startswith("light") or "half-steps" in name
        share = f"{100 * count_flops(*numbers) / seconds / rate:.0f}" if is_light_rnn else ""
        print(
            f"| {name} | {batch_size * length / seconds:,.0f} | {1e3 * seconds:.0f} "
            f"| {seconds / fastest:.2f} | {result['gigabytes']:.2f} | {share} |",
            flush=True,
        )


def print_sweep(vocabulary_sizes: Sequence[int], rounds: int, steps: int) -> None:
    print("\n| V | us a word | us a word / sqrt(V) | peak GB |\n|---|---|---|---|")
    for vocabulary_size in vocabulary_sizes:
        size = f"64,35,512,{vocabulary_size}"
        result = measure(size, ["lightrnn"], rounds, steps)["lightrnn"]
        cost = 1e6 * result["seconds"] / (64 * 35)
        print(
            f"| {vocabulary_size:,} | {cost:.1f} | {cost / vocabulary_size**0.5:.3f} "
            f"| {result['gigabytes']:.2f} |",
            flush=True,
        )


def measure_statistics(size: str, jit_compile: bool, rounds: int) -> tuple[float, float]:
    """Return the median seconds of a step, and those that sums for reallocation add."""
    steps = [
        make_light_rnn(parse_size(size), "auto", jit_compile, has_statistics=has_statistics)
        for has_statistics in (False, True)
    ]
    seconds = []
    for _ in range(rounds + 3):
        row = []
        for step in steps:
            start = time.perf_counter()
            step()
            row.append(time.perf_counter() - start)
        seconds.append(row)
    plain, summing = np.transpose(seconds[3:])
    return float(np.median(plain)), float(np.median(summing - plain))


def print_statistics(sizes: Sequence[str], rounds: int) -> None:
    print("| B,T,H,V | XLA | ms a step | sums, % |\n|---|---|---|---|")
    for size in sizes:
        for jit_compile in (False, True):
            plain, added = measure_statistics(size, jit_compile, rounds)
            name = "whole step" if jit_compile else "parts"
            print(
                f"| {size} | {name} | {1e3 * plain:.1f} | {100 * added / plain:.1f} |", flush=True
            )


def parse_size(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if len(numbers) != 4 or not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(
            f"a size must be four numbers, B,T,H,V. Received: {text}. Write it as in 8,5,16,300."
        )
    return tuple(int(number) for number in numbers)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="B,T,H,V")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of each contestant in a round")
    parser.add_argument("--max-gigabytes", type=float, default=5.0)
    parser.add_argument("--quick", action="store_true", help="one small size, the fast ones")
    parser.add_argument("--sweep", type=int, nargs="+", metavar="V")
    parser.add_argument("--statistics", action="store_true", help="what sums cost a step")
    parser.add_argument("--worker", choices=ALL, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        work(arguments.worker, parse_size(arguments.sizes[0]))
        return
    if arguments.sweep:
        print_sweep(arguments.sweep, arguments.rounds, arguments.steps)
        return
    if arguments.statistics:
        print_statistics(arguments.sizes, arguments.rounds)
        return
    sizes, names = arguments.sizes, arguments.contestants
    if arguments.quick:
        sizes = [QUICK_SIZE]
        names = ["lightrnn", "lightrnn, XLA", "keras half-steps", "keras half-steps, XLA"]
    for size in sizes:
        results = measure(size, names, arguments.rounds, arguments.steps, arguments.max_gigabytes)
        print_table(size, results)


if __name__ == "__main__":
    main()
