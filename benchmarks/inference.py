"""Time of the next word, of the whole distribution, and of a full softmax.

    taskset -c 0 python benchmarks/inference.py              # one core, 250,000 words, not trained
    taskset -c 0 python benchmarks/inference.py --model lightrnn-model --text test.txt
    taskset -c 0 python benchmarks/inference.py --requests --vocabulary-size 60416 --units 100

Measures, for prefixes of `--prefix-length` words: the exact best ten words of a `LightRNNModel`,
the log-probabilities of all words, the best ten words of an LSTM of that size with a full softmax
(with random weights, which do not change its time), and sampled words. Also measures the words per
second of `score` and of training steps, in batches of 32 lines of 35 words (a stateful model keeps
its batch size). The measurements alternate in one process; the figures are medians. For a batch,
the time per prefix is printed. `--model` reads the directory that
`examples/train_language_model.py` wrote, and takes prefixes from `--text`. A model that is not
trained is the worst case: only its word bias can rule out rows.

With `--requests`, measures the best 20 words from states: for one state and a batch of
`--num-texts`, with `--tables` tables, for sharp predictions, whose logits have a standard deviation
of about 4, and for flat ones. `TopWords` runs in a compiled function. An export is the search of
`export_saved_model`. Both are compared with two whole distributions, followed by `top_k`: a full
softmax of that size, and the log-probabilities of all words by the same tables. Each contestant
answers a request that is not timed before one that is, as the same model does on a server. The
milliseconds are CPU time of all threads: set TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS to
1.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.data import Vocabulary, read_lines
from keras_lightrnn.layers import TopWords, TwoComponentSoftmax
from keras_lightrnn.serving.search import find_best_cells
from keras_lightrnn.serving.softmax import make_reader_softmax

K = 10
_NUM_BEST = 20  # of a request
_NUM_TEXTS = 64  # of a batch to complete
_BATCH_SIZE, _SEQUENCE_LENGTH = 32, 35
_NUM_BATCHES = 64  # to score


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary-size", type=int, default=250_000, help="if not trained")
    parser.add_argument("--units", type=int, default=256, help="if not trained")
    parser.add_argument("--word-bias", choices=("none", "counts"), default="counts")
    parser.add_argument("--model", type=Path, help="directory of model.keras and vocabulary.txt")
    parser.add_argument("--text", help="file to draw prefixes from, with --model")
    parser.add_argument("--prefix-length", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--requests", action="store_true", help="measure TopWords and exports")
    parser.add_argument("--tables", type=int, nargs="+", default=[1, 2], help="with --requests")
    parser.add_argument("--num-texts", type=int, default=64, help="with --requests")
    return parser


def make_model(args: argparse.Namespace) -> tuple[LightRNNModel, np.ndarray]:
    """Return the model, and a stream of words."""
    rng = np.random.default_rng(0)
    if args.model:
        vocabulary = Vocabulary.load(args.model / "vocabulary.txt")
        model = keras.saving.load_model(args.model / "model.keras")
        return model, vocabulary.encode_lines(read_lines(args.text))
    size = args.vocabulary_size
    has_bias = args.word_bias == "counts"
    model = LightRNNModel(
        size,
        args.units,
        args.units,
        word_bias="counts" if has_bias else None,
        row_reading="recurrence",
    )
    model.build((None, None))
    shares = 1 / np.arange(1, size + 1)  # Zipf
    if has_bias:
        model.assign_word_counts(1e7 * shares)
    stream = rng.choice(size, size=100_000, p=shares / shares.sum()).astype(np.int32)
    return model, stream


def make_full_softmax(size: int, units: int) -> Callable[[np.ndarray], Any]:
    """Return a compiled search for the best words of an LSTM with a full softmax."""
    words = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(size, units)(words)
    x = keras.layers.LSTM(units)(x)
    model = keras.Model(words, keras.layers.Dense(size)(x))

    @tf.function(reduce_retracing=True)
    def best_words(prefix: Any) -> Any:
        return tf.math.top_k(tf.nn.log_softmax(model(prefix)), K)

    return lambda prefix: best_words(tf.constant(prefix[None]))[0].numpy()


def draw_prefixes(stream: np.ndarray, length: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    while True:
        start = rng.integers(len(stream) - length)
        yield stream[start : start + length]


def take_turns(
    contestants: dict[str, Callable[[Any], Any]],
    prefixes: Iterator[Any],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    is_warm: bool = False,
) -> dict[str, float]:
    """Return the median milliseconds of each contestant, after three warm-up rounds.

    With `is_warm`, a contestant also runs once, untimed, right before it is timed.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 3):
        prefix = next(prefixes)
        for name, run in contestants.items():
            if is_warm:
                run(prefix)
            start = clock()
            run(prefix)
            milliseconds[name].append(1e3 * (clock() - start))
    return {name: statistics.median(values[3:]) for name, values in milliseconds.items()}


def measure_throughput(model: LightRNNModel, stream: np.ndarray) -> dict[str, float]:
    """Return the words per second of scoring and of training."""
    batch_size = model.carried_state.batch_size if model.stateful else _BATCH_SIZE
    lines = np.resize(stream, (_NUM_BATCHES * batch_size, _SEQUENCE_LENGTH + 1))
    seconds: dict[str, list[float]] = {"score": [], "train": []}  # a line
    model.compile("adam")
    windows = (tf.constant(lines[:batch_size]),)
    steps = iter(tf.data.Dataset.from_tensors(windows).repeat())
    model.make_train_function()
    for _ in range(4):
        start = time.perf_counter()
        model.score(lines, batch_size=batch_size)
        seconds["score"].append((time.perf_counter() - start) / len(lines))
        for _ in range(10):
            start = time.perf_counter()
            float(model.train_function(steps)["loss"])
            seconds["train"].append((time.perf_counter() - start) / batch_size)
    return {
        name: _SEQUENCE_LENGTH / statistics.median(values[len(values) // 4 :])
        for name, values in seconds.items()
    }


def make_softmax(args: argparse.Namespace, num_tables: int, sharpness: float) -> Any:
    """Return a softmax whose row and column logits have about this standard deviation."""
    size, units = args.vocabulary_size, args.units
    rng = np.random.default_rng(0)
    tables = [Allocation.random(size, seed=seed) for seed in range(num_tables)]
    softmax = TwoComponentSoftmax(tables, word_bias="counts", word_dim=14)
    softmax.build((None, units))
    softmax.word_kernel.assign(0.1 * rng.normal(size=softmax.word_kernel.shape))
    for table in softmax.list_tables():
        table.query_kernel.assign(rng.normal(size=(units, units)) / np.sqrt(units))
        for kernel in (table.row_kernel, table.column_kernel):
            kernel.assign(1.6 * sharpness * rng.normal(size=kernel.shape) / np.sqrt(units))
    return softmax


class _Export:
    """What the search of an export asks of a network, for states that are given."""

    padding_cell = None
    reads_rows_by_steps = False

    def __init__(self, softmax: TwoComponentSoftmax) -> None:
        self.softmax: Any = make_reader_softmax(softmax)
        self._words = tf.constant(softmax.word_table.allocation.words.ravel(), tf.int32)

    def predict_rows(self, states: list[Any]) -> Any:
        return self.softmax.predict_rows(states[0])

    def predict_tables(self, states: list[Any]) -> Any:
        return self.softmax.predict_tables(states[0])

    def __call__(self, states: Any) -> Any:
        def get_words(cells: Any) -> Any:
            return tf.gather(self._words, tf.maximum(cells, 0))

        return find_best_cells(self, [states], tf.constant(_NUM_BEST), get_words)


def compute_all_log_probs(softmax: TwoComponentSoftmax, states: Any) -> Any:
    """Return the log-probabilities of all words, `(B, H) -> (B, V)`."""
    tables = softmax.list_tables()
    weights = None  # (B, tables): each table has one component
    if softmax.component_kernel is not None:
        weights = softmax.compute_component_log_probs(states)
    total = None
    for index, table in enumerate(tables):
        num_rows = table.word_table.num_rows
        queries = table.compute_queries(states)  # (B, 1, H)
        row_log_probs = tf.nn.log_softmax(table.compute_row_logits(queries))[:, 0]  # (B, R)
        if weights is not None:
            row_log_probs += weights[:, index : index + 1]
        rows = tf.zeros_like(row_log_probs, tf.int32) + tf.range(num_rows)
        repeated = tf.repeat(queries[:, None], num_rows, axis=1)  # (B, R, 1, H)
        logits = table.compute_all_column_logits(table.read_rows(repeated, rows))
        log_probs = row_log_probs[..., None] + tf.nn.log_softmax(logits)[:, :, 0]  # (B, R, C)
        cells = tf.transpose(tf.reshape(log_probs, [-1, num_rows * log_probs.shape[2]]))
        of_words = tf.gather_nd(cells, table.word_table.cells[:, None])  # (V, B)
        total = of_words if total is None else tf.reduce_logsumexp([total, of_words], axis=0)
    return tf.transpose(total)


def measure_requests(args: argparse.Namespace) -> dict[str, float]:
    """Return the median milliseconds of requests for the best 20 words, for each state."""
    size, units = args.vocabulary_size, args.units
    spec = tf.TensorSpec((None, units))

    def compile_search(search: Callable[[Any], Any]) -> Callable[[Any], Any]:
        function = tf.function(search, autograph=False).get_concrete_function(spec)
        return lambda states: function(states)[0].numpy()

    dense = keras.layers.Dense(size)
    dense.build((None, units))
    searches = {
        "full softmax": compile_search(
            lambda states: tf.math.top_k(tf.nn.log_softmax(dense(states)), _NUM_BEST)
        )
    }
    kept = []  # of a concrete function, nothing else holds the variables
    for num_tables, (kind, sharpness) in itertools.product(
        args.tables, {"sharp": 2.5, "flat": 0}.items()
    ):
        softmax = make_softmax(args, num_tables, sharpness)
        if f"{num_tables} table(s), whole" not in searches:  # takes as long for all predictions
            searches[f"{num_tables} table(s), whole"] = compile_search(
                lambda states, softmax=softmax: tf.math.top_k(
                    compute_all_log_probs(softmax, states), _NUM_BEST
                )
            )
        name = f"{num_tables} table(s), {kind}"
        kept += [TopWords(softmax, _NUM_BEST), _Export(softmax)]
        searches[name], searches[f"{name}, export"] = map(compile_search, kept[-2:])
    rng = np.random.default_rng(1)

    def draw_states(num_texts: int) -> Iterator[Any]:
        while True:
            yield tf.constant(rng.normal(size=(num_texts, units)).astype("float32"))

    def measure(num_texts: int, rounds: int) -> dict[str, float]:
        return take_turns(searches, draw_states(num_texts), rounds, time.process_time, is_warm=True)

    results = measure(1, args.rounds)
    of_batch = measure(args.num_texts, max(args.rounds // 8, 1))
    of_each = {name: milliseconds / args.num_texts for name, milliseconds in of_batch.items()}
    print(f"best {_NUM_BEST} of {size:,} words, {units} units\n")
    heads = "| times the full softmax | times the whole distribution by its tables "
    print(f"| | ms {heads}| ms of each of {args.num_texts} {heads}|\n|{'---|' * 7}")
    for name in results:
        line = f"| {name} "
        for values in (results, of_each):
            whole = values.get(f"{name.split(',')[0]}, whole")
            line += f"| {values[name]:.2f} | {values[name] / values['full softmax']:.2f} "
            line += f"| {values[name] / whole:.2f} " if whole else "| "
        print(f"{line}|", flush=True)
    return {**results, **{f"{name}, batch": x for name, x in of_each.items()}}


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    args = make_parser().parse_args(argv)
    if args.requests:
        if args.model:
            raise SystemExit("--requests measures models that are not trained: leave out --model.")
        return measure_requests(args)
    if bool(args.model) != bool(args.text):
        raise SystemExit("A trained model is asked about a text: give --model and --text.")
    model, stream = make_model(args)
    size, units = model.word_table.vocabulary_size, model.units
    full = make_full_softmax(size, units)
    batch = f", batch of {_NUM_TEXTS}"
    prefixes = draw_prefixes(stream, args.prefix_length)
    texts = np.stack(list(itertools.islice(prefixes, _NUM_TEXTS)))
    contestants: dict[str, Callable[[np.ndarray], Any]] = {
        f"best {K} words": lambda prefix: model.next_words(prefix, K),
        f"best {K} words{batch}": lambda _: model.next_words(texts, K),
        "all log-probabilities": model.word_log_probs,
        f"best {K} words, full softmax": full,
        "20 sampled words": lambda prefix: model.generate(prefix, 20, seed=0),
        f"20 sampled words{batch}": lambda _: model.generate(texts, 20, seed=0),
        "20 sampled words, temperature 0.8": lambda prefix: model.generate(
            prefix, 20, temperature=0.8, seed=0
        ),
    }
    results = take_turns(contestants, prefixes, args.rounds)
    for name in results:
        if name.endswith(batch):
            results[name] /= _NUM_TEXTS
    kind = "trained" if args.model else "not trained"
    print(f"{size:,} words, {units} units, {kind}, prefixes of {args.prefix_length} words\n")
    print("| | ms | times the best words |\n|---|---|---|")
    for name, milliseconds in results.items():
        ratio = milliseconds / results[f"best {K} words"]
        print(f"| {name} | {milliseconds:.2f} | {ratio:.1f} |", flush=True)
    throughput = measure_throughput(model, stream)
    print(", ".join(f"{name}: {rate:,.0f} words/s" for name, rate in throughput.items()))
    return {**results, **throughput}


if __name__ == "__main__":
    main()
