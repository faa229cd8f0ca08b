"""Train a classifier with very many classes and predict the five likeliest.

An example is a vector of 64 numbers that the script makes: the sum of a vector of its category, one
of its variant, and noise. A class is a category and a variant, as in a catalogue of products. Class
ids are ordered by category, which fits the default table: it puts consecutive ids into one row.
Where ids follow no such order, cluster vectors of the classes with
`keras_lightrnn.clustering.cluster_features` and give the allocation to the softmax.

The script prints the parameters, the memory and the time of a training step, and those of the same
network with `Dense(classes)`: measured up to 200,000 classes, and by arithmetic above.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from typing import Any

import quiet_start  # noqa: F401 (first, because it imports TensorFlow)

# isort: split
import keras
import numpy as np

from keras_lightrnn.layers import TopWords, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood

NUM_FEATURES = 64
# A dense layer of more classes is not measured.
MOST_DENSE = 200_000


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, text in (
        ("classes", 100_000, "number of classes"),
        ("units", 64, "units of the network"),
        ("steps", 1_500, "training steps"),
        ("batch-size", 256, "examples of a step"),
        ("test-examples", 2_000, "examples to classify after training"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--noise", type=float, default=0.5, help="deviation of the noise (0.5)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser


class Task:
    """Noisy vectors of classes.

    Args:
        num_classes: Integer.
        noise: Float, the deviation of the noise.
        seed: Integer.
    """

    def __init__(self, num_classes: int, noise: float, seed: int) -> None:
        self.num_classes = num_classes
        self.noise = noise
        self.rng = np.random.default_rng(seed)
        # As many variants as the default table has columns.
        self.num_variants = math.ceil(num_classes / math.isqrt(num_classes))
        num_categories = -(-num_classes // self.num_variants)
        self.categories, self.variants = (
            self.rng.normal(size=(size, NUM_FEATURES)).astype("float32")
            for size in (num_categories, self.num_variants)
        )

    def draw(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return examples `(size, 64)` and their classes `(size,)`."""
        classes = self.rng.integers(self.num_classes, size=size).astype("int32")
        noise = self.rng.normal(size=(size, NUM_FEATURES)).astype("float32")
        examples = self.categories[classes // self.num_variants] + self.noise * noise
        return examples + self.variants[classes % self.num_variants], classes


def make_models(num_classes: int, units: int) -> tuple[keras.Model, keras.Model]:
    """Return the model to train, and the one that predicts the five likeliest classes."""
    x = keras.Input((NUM_FEATURES,))
    targets = keras.Input((), dtype="int32")
    states = keras.layers.Dense(units, "tanh")(x)
    softmax = TwoComponentSoftmax(num_classes)
    trained = keras.Model([x, targets], softmax(states, targets))
    return trained, keras.Model(x, TopWords(softmax, k=5)(states))


def make_dense_model(num_classes: int, units: int) -> keras.Model:
    x = keras.Input((NUM_FEATURES,))
    states = keras.layers.Dense(units, "tanh")(x)
    return keras.Model(x, keras.layers.Dense(num_classes)(states))


def measure_step(model: keras.Model, inputs: Any, targets: Any) -> float:
    """Return the seconds of a training step."""
    model.train_on_batch(inputs, targets)  # compiles
    start = time.perf_counter()
    for _ in range(3):
        model.train_on_batch(inputs, targets)
    return (time.perf_counter() - start) / 3


def count_dense_parameters(num_classes: int, units: int) -> int:
    return (NUM_FEATURES + 1) * units + (units + 1) * num_classes


def describe(name: str, num_parameters: int, seconds: float | None) -> str:
    # A weight, its gradient and two moments of Adam, 4 bytes each.
    line = f"{name}: {num_parameters:,} parameters, {16 * num_parameters / 1e6:,.1f} MB in training"
    return line if seconds is None else f"{line}, {1e3 * seconds:,.1f} ms a step"


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = make_parser().parse_args(argv)
    if min(args.classes, args.units, args.steps, args.batch_size, args.test_examples) < 1:
        raise SystemExit("Sizes must be at least 1.")
    if args.classes < 5:
        raise SystemExit("The five likeliest classes need at least 5 (--classes).")
    keras.utils.set_random_seed(args.seed)
    task = Task(args.classes, args.noise, args.seed)
    model, answering = make_models(args.classes, args.units)
    model.compile(keras.optimizers.Adam(0.01), NegativeLogLikelihood())
    examples, classes = task.draw(args.steps * args.batch_size)
    model.fit([examples, classes], classes, batch_size=args.batch_size, verbose=2)

    examples, classes = task.draw(args.test_examples)
    start = time.perf_counter()
    best, _ = answering.predict(examples, batch_size=args.batch_size, verbose=0)
    seconds = (time.perf_counter() - start) / len(examples)
    accuracies = [float((best[:, :k] == classes[:, None]).any(axis=1).mean()) for k in (1, 5)]
    print(f"top-1 accuracy {accuracies[0]:.1%}, top-5 accuracy {accuracies[1]:.1%}", end="")
    print(f", {1e3 * seconds:.2f} ms an example (chance: {5 / args.classes:.4%})")

    batch, targets = task.draw(args.batch_size)
    step = measure_step(model, [batch, targets], targets)
    print(describe("TwoComponentSoftmax", model.count_params(), step))
    dense_step = None
    if args.classes <= MOST_DENSE:
        dense = make_dense_model(args.classes, args.units)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        dense.compile(keras.optimizers.Adam(0.01), loss)
        dense_step = measure_step(dense, batch, targets)
    parameters = count_dense_parameters(args.classes, args.units)
    print(describe(f"Dense({args.classes:,})", parameters, dense_step))
    if args.classes < 1_000_000:
        million = make_models(1_000_000, args.units)[0].count_params()
        print(describe("TwoComponentSoftmax of 1,000,000 classes", million, None))
        parameters = count_dense_parameters(1_000_000, args.units)
        print(describe("Dense(1,000,000)", parameters, None))
    return {"top_1": accuracies[0], "top_5": accuracies[1], "step": step, "dense_step": dense_step}


if __name__ == "__main__":
    main()
