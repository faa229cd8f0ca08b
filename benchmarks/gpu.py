"""Speed of LightRNN, full softmaxes and adaptive softmaxes on a GPU, with the JAX backend.

Needs JAX and Keras, not TensorFlow. The contestant in PyTorch is skipped without PyTorch.
Measures whole training steps with Adam for each size `B,T,H,V`. The steps alternate; the figures
are medians:

- fused: `LightRNNModel` on the package's recurrence, in float32 and in mixed bfloat16;
- keras: the same on `keras.layers.LSTM`;
- jax full: an LSTM over words and all `V` logits, if they fit into memory;
- torch adaptive: `nn.LSTM` (cuDNN) and `AdaptiveLogSoftmaxWithLoss`.

For comparison, published figures of the CNTK example on One Billion Word with one Titan X: 24,615
to 32,000 words/s for two layers of 500 units, 12,300 to 14,280 for two layers of 1,000.

    python benchmarks/gpu.py                         # under eight minutes on one GPU
    python benchmarks/gpu.py --sizes 8,5,16,300 --rounds 1 --steps 1     # anywhere
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs room too

import jax
import jax.numpy as jnp
import keras
import numpy as np
from training_speed import make_windows, parse_size

from keras_lightrnn import LightRNNModel

SIZES = [(64, 35, 512, 65_000), (128, 35, 512, 250_000), (512, 64, 1024, 793_000)]
Step = Callable[[], Any]


def make_light_rnn(size: Sequence[int], path: str, policy: str) -> Step:
    batch_size, length, units, vocabulary_size = size
    model = LightRNNModel(
        vocabulary_size,
        units,
        units,
        recurrence_path=path,
        dtype=keras.DTypePolicy(policy),
        row_reading="recurrence",
    )
    model.build((batch_size, length + 1))
    model.compile("adam")
    windows = jnp.asarray(make_windows(batch_size, length, vocabulary_size))
    return make_stateless_step(model, windows)


def make_stateless_step(model: keras.Model, windows: Any) -> Step:
    """Return `model.train_step` as one compiled function of the whole state."""
    model.optimizer.build(model.trainable_variables)
    state = [
        [v.value for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
        )
    ]

    def compute_loss(trainable: list[Any], others: list[Any]) -> tuple[Any, list[Any]]:
        log_probs, others = model.stateless_call(trainable, others, windows, training=True)
        return -jnp.mean(log_probs), others

    @jax.jit
    def train(trainable: list[Any], others: list[Any], slots: list[Any]) -> tuple[Any, ...]:
        gradient = jax.value_and_grad(compute_loss, has_aux=True)
        (loss, others), gradients = gradient(trainable, others)
        trainable, slots = model.optimizer.stateless_apply(slots, gradients, trainable)
        return loss, [trainable, others, slots]

    def step() -> Any:
        nonlocal state
        loss, state = train(*state)
        return jax.block_until_ready(loss)

    return step


def make_jax_full(size: Sequence[int]) -> Step:
    batch_size, length, units, vocabulary_size = size
    words = keras.Input((length + 1,), batch_size=batch_size, dtype="int32")
    x = keras.layers.Embedding(vocabulary_size, units)(words[:, :-1])
    x = keras.layers.LSTM(units, return_sequences=True)(x)
    logits = keras.layers.Dense(vocabulary_size)(x)
    log_probs = -keras.ops.sparse_categorical_crossentropy(words[:, 1:], logits, from_logits=True)
    model = keras.Model(words, log_probs)
    model.compile("adam")
    return make_stateless_step(
        model, jnp.asarray(make_windows(batch_size, length, vocabulary_size))
    )


def make_torch_adaptive(size: Sequence[int]) -> Step:
    import torch
    from torch import nn

    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch_size, length, units, vocabulary_size = size
    windows = torch.tensor(make_windows(batch_size, length, vocabulary_size)).long().to(device)
    lstm = nn.LSTM(units, units, batch_first=True).to(device)
    embedding = nn.Embedding(vocabulary_size, units, sparse=True).to(device)
    cutoffs = [c for c in (2000, 10_000, 60_000) if c < vocabulary_size] or [vocabulary_size // 4]
    output = nn.AdaptiveLogSoftmaxWithLoss(units, vocabulary_size, cutoffs).to(device)
    optimizers = [
        torch.optim.SparseAdam(list(embedding.parameters())),
        torch.optim.Adam([*lstm.parameters(), *output.parameters()], fused=True),
    ]

    def step() -> Any:
        for optimizer in optimizers:
            optimizer.zero_grad()
        hidden, _ = lstm(embedding(windows[:, :-1]))
        loss = output(hidden.reshape(-1, units), windows[:, 1:].reshape(-1)).loss
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return step


CONTESTANTS: dict[str, Callable[[Sequence[int]], Step]] = {
    "fused, float32": lambda size: make_light_rnn(size, "fused", "float32"),
    "fused, mixed_bfloat16": lambda size: make_light_rnn(size, "fused", "mixed_bfloat16"),
    "keras, float32": lambda size: make_light_rnn(size, "keras", "float32"),
    "keras, mixed_bfloat16": lambda size: make_light_rnn(size, "keras", "mixed_bfloat16"),
    "jax full": make_jax_full,
    "torch adaptive": make_torch_adaptive,
}


def measure(size: Sequence[int], rounds: int, steps: int, max_gigabytes: float) -> dict[str, float]:
    """Return the median seconds of a step for each contestant."""
    batch_size, length, units, vocabulary_size = size
    full = 4e-9 * vocabulary_size * (8 * units + 4 * batch_size * length)
    contestants = {}
    for name, make in CONTESTANTS.items():
        if name.startswith("torch") and importlib.util.find_spec("torch") is None:
            continue
        if name == "jax full" and full > max_gigabytes:
            continue
        step = make(size)
        for _ in range(3):  # compiles, and warms up
            if not np.isfinite(float(step())):
                raise ValueError(f"{name} diverged at size {size}.")
        contestants[name] = step
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, step in contestants.items():
            for _ in range(steps):
                start = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=parse_size, nargs="+", default=SIZES, metavar="B,T,H,V")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of each contestant in a round")
    parser.add_argument("--max-gigabytes", type=float, default=40.0, help="for the full softmax")
    arguments = parser.parse_args(argv)
    print(f"device: {jax.devices()[0].device_kind}, jax {jax.__version__}")
    for size in arguments.sizes:
        results = measure(size, arguments.rounds, arguments.steps, arguments.max_gigabytes)
        print("\n### B={} T={} D=H={} V={:,}\n".format(*size))
        print("| | words/s | ms a step |\n|---|---|---|")
        for name, seconds in results.items():
            words = size[0] * size[1] / seconds
            print(f"| {name} | {words:,.0f} | {1e3 * seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
