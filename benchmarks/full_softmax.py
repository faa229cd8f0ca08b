"""Perplexity and time of LightRNN and of a full softmax.

    python benchmarks/full_softmax.py --text train.txt valid.txt test.txt --word-dim 16
    python benchmarks/full_softmax.py --text train.txt valid.txt test.txt --word-dim 16 \\
        --num-layers 2 --epochs 13 --dropout 0.3

Trains a Keras LSTM with a full embedding and softmax, LightRNN as published with a word bias, and
LightRNN with word vectors (`--word-dim`), one after the other with the same text, windows,
optimizer and schedule. Prints the number of parameters, the median time of a training step, and
validation and test perplexity after the last epoch.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from language_model import (
    StepTimer,
    add_arguments,
    compile_model,
    describe,
    make_light_rnn,
    make_windows,
    read_splits,
)

from keras_lightrnn import Allocation

_MODELS = ("full softmax", "LightRNN", "LightRNN + word vectors")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--models", nargs="+", default=list(_MODELS), choices=_MODELS)
    return parser


class StateReset(keras.callbacks.Callback):
    """Starts every pass over a text in the zero state, as `LightRNNModel` does."""

    def reset(self, *_: Any, **__: Any) -> None:
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.LSTM):
                layer.reset_states()

    on_epoch_begin = on_test_begin = reset


def make_full_softmax(size: int, args: argparse.Namespace) -> keras.Model:
    words = keras.Input(batch_shape=(args.batch_size, args.sequence_length), dtype="int32")
    x = keras.layers.Embedding(size, args.units)(words)
    for _ in range(args.num_layers):
        x = keras.layers.Dropout(args.dropout)(x)
        x = keras.layers.LSTM(args.units, return_sequences=True, stateful=True)(x)
    x = keras.layers.Dropout(args.dropout)(x)
    return keras.Model(words, keras.layers.Dense(size)(x))


def train_once(
    splits: list[np.ndarray], size: int, name: str, seed: int, args: argparse.Namespace
) -> tuple[int, float, float, float]:
    """Return the parameters, the median milliseconds of a step, validation and test perplexity."""
    keras.utils.set_random_seed(seed)
    windows = make_windows(splits, size, args)
    num_steps = len(windows[0]) * args.epochs
    timer = StepTimer()
    callbacks: list[Any] = [timer]
    if name == "full softmax":
        model = make_full_softmax(size, args)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Padding at the end of a text has weight zero in the metric, as in LightRNN.
        metric = keras.metrics.SparseCategoricalCrossentropy(name="nats", from_logits=True)
        compile_model(model, num_steps, args, loss=loss, weighted_metrics=[metric])
        windows = [data.map(lambda x, y, *weight: (x[:, :-1], y, *weight)) for data in windows]
        callbacks.append(StateReset())
    else:
        word_dim = args.word_dim if name.endswith("vectors") else 0
        allocation = Allocation.from_cooccurrence(splits[0], size, seed=seed)
        model = make_light_rnn(allocation, splits[0], word_dim, args)
        compile_model(model, num_steps, args)

    def get_perplexity(logs: dict[str, Any], prefix: str = "") -> list[float]:
        if name == "full softmax":
            return [math.exp(x) for x in np.atleast_1d(logs[f"{prefix}nats"])]
        return np.atleast_1d(logs[f"{prefix}perplexity"]).tolist()

    history = model.fit(
        windows[0],
        validation_data=windows[1],
        epochs=args.epochs,
        callbacks=callbacks,
        verbose=0,
    ).history
    valid = get_perplexity(history, "val_")
    logs = model.evaluate(windows[2], return_dict=True, verbose=0, callbacks=callbacks[1:])
    (test,) = get_perplexity(logs)
    params = sum(math.prod(v.shape) for v in model.trainable_variables)
    print(
        f"{name} / seed {seed}: validation {' '.join(f'{value:.1f}' for value in valid)}, test "
        f"{test:.2f}, {timer.median_milliseconds:.1f} ms a step",
        flush=True,
    )
    return params, timer.median_milliseconds, valid[-1], test


def main(argv: Sequence[str] | None = None) -> dict[str, list[tuple[int, float, float, float]]]:
    args = make_parser().parse_args(argv)
    splits, size = read_splits(args)
    results = {
        name: [train_once(splits, size, name, seed, args) for seed in args.seeds]
        for name in args.models
    }
    print("\n| model | trained parameters | ms a step | validation | test |\n|---|---|---|---|---|")
    for name, runs in results.items():
        params, *columns = (list(values) for values in zip(*runs, strict=True))
        print(f"| {name} | {params[0]:,} | {' | '.join(map(describe, columns))} |")
    return results


if __name__ == "__main__":
    main()
