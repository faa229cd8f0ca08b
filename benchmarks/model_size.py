"""Size of a language model of ten million words, and the response time of its LiteRT files.

Builds a `LightRNNModel` without word bias, exports it to LiteRT in every precision, and finds the
ten likeliest next words with the LiteRT runtime alone, on one thread. A separate process measures
each line of the tables, so that peak memory belongs to that line. The memory of the imports is
printed too. The sizes include everything that a phone must hold except for the spelling of the
words.

The weights are not trained. The biases of rows and columns follow Zipf's law, for words ordered by
frequency, so that the distribution is as steep as that of text. "All rows" is the time of a search
that can rule out no row.

    python benchmarks/model_size.py
    python benchmarks/model_size.py --saved-model  # and a SavedModel, with ten million spellings
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peak_memory import get_peak_megabytes

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PRECISIONS = (None, "float16", "int8")
NUM_BEST = 10
NUM_PREFIXES = 20
PREFIX_LENGTH = 5
ROWS_AT_ONCE = 16


def make_model(arguments: argparse.Namespace) -> Any:
    import keras

    from keras_lightrnn import Allocation, LightRNNModel
    from keras_lightrnn.layers import GatedRowReader

    keras.utils.set_random_seed(0)
    allocation = Allocation.by_frequency(arguments.vocabulary_size)
    row_reading: Any = "recurrence"
    if arguments.row_reading != "half-steps":
        has_shift = arguments.row_reading == "gate-and-shift"
        row_reading = GatedRowReader(allocation.num_rows, has_shift)
    model = LightRNNModel(
        allocation,
        arguments.units,
        arguments.units,
        arguments.layers,
        row_reading=row_reading,
        gate_dim=arguments.gate_dim,
    )
    model.build((None, None))
    if row_reading != "recurrence":
        # Gates start at zero, and a file stores equal tensors only once.
        for gates in (model.embedding.input_gate, *row_reading.row_weights):
            gates.assign(keras.random.normal(gates.shape, stddev=0.1))
    num_rows, num_columns = allocation.shape
    ranks = np.arange(num_rows * num_columns, dtype=np.float32).reshape(num_rows, num_columns)
    shares = 1 / (ranks + 2.7)
    model.softmax.row_bias.assign(np.log(shares.sum(axis=1)))
    model.softmax.column_bias.assign(np.log(shares.sum(axis=0)))
    return model


# Measurements, each in a fresh process.


def build(arguments: argparse.Namespace) -> dict[str, Any]:
    import keras_lightrnn  # noqa: F401

    imports = get_peak_megabytes()
    start = time.perf_counter()
    model = make_model(arguments)
    return {
        "seconds": time.perf_counter() - start,
        "imports": imports,
        "peak": get_peak_megabytes(),
        "parameters": sum(int(np.prod(weight.shape)) for weight in model.trainable_weights),
        "shape": model.word_table.table_shape,
    }


def export(arguments: argparse.Namespace, quantize: str | None, path: str) -> dict[str, Any]:
    from keras_lightrnn.serving import export_litert

    imports = get_peak_megabytes()
    model = make_model(arguments)
    start = time.perf_counter()
    export_litert(model, path, quantize)
    return {
        "seconds": time.perf_counter() - start,
        "imports": imports,
        "peak": get_peak_megabytes(),
    }


def predict(path: str) -> dict[str, Any]:
    from ai_edge_litert.interpreter import Interpreter

    imports = get_peak_megabytes()
    phone = Interpreter(path, num_threads=1)
    read_row = phone.get_signature_runner("row_half_step")
    read_column = phone.get_signature_runner("column_half_step")
    state_shape = read_row.get_input_details()["states"]["shape"][1:]
    num_columns = read_row.get_output_details()["column_log_probs"]["shape"][1]
    num_rows = read_column.get_output_details()["row_log_probs"]["shape"][1]

    def find_best(prefix: np.ndarray, may_stop: bool = True) -> int:
        """Search the likeliest cells, and return the number of rows that were read."""
        states = np.zeros((1, *state_shape), np.float32)
        for place, cell in enumerate(prefix):
            if place:
                row = np.array([cell // num_columns], np.int32)
                states = read_row(rows=row, states=states)["states"]
            read = read_column(cells=np.array([cell], np.int32), states=states)
            states = read["states"]
        row_log_probs = read["row_log_probs"][0]
        order = np.argsort(-row_log_probs).astype(np.int32)
        states = np.repeat(states, ROWS_AT_ONCE, axis=0)
        best = np.full(NUM_BEST, -np.inf, np.float32)
        for start in range(0, num_rows, ROWS_AT_ONCE):
            rows = order[start : start + ROWS_AT_ONCE]
            if may_stop and best[0] >= row_log_probs[rows[0]]:
                return start
            columns = read_row(rows=rows, states=states[: len(rows)])["column_log_probs"]
            joint = (row_log_probs[rows][:, None] + columns).ravel()
            best = np.partition(np.concatenate([best, joint]), -NUM_BEST)[-NUM_BEST:]  # [0] least
        return num_rows

    generator = np.random.default_rng(0)
    prefixes = generator.integers(num_rows * num_columns, size=(NUM_PREFIXES, PREFIX_LENGTH))
    find_best(prefixes[0])
    seconds, rows_read = [], []
    for prefix in prefixes:
        start = time.perf_counter()
        rows_read.append(find_best(prefix))
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    find_best(prefixes[0], may_stop=False)
    return {
        "seconds": statistics.median(seconds),
        "rows": statistics.median(rows_read),
        "all_seconds": time.perf_counter() - start,
        "imports": imports,
        "peak": get_peak_megabytes(),
    }


def export_text(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    from keras_lightrnn.data import Vocabulary
    from keras_lightrnn.serving import export_saved_model

    imports = get_peak_megabytes()
    model = make_model(arguments)
    words = (f"w{index}" for index in range(arguments.vocabulary_size - 2))
    vocabulary = Vocabulary([*words, "<unk>", "<eos>"])
    start = time.perf_counter()
    export_saved_model(model, vocabulary, path, reorder_vocabulary=True)
    return {
        "seconds": time.perf_counter() - start,
        "imports": imports,
        "peak": get_peak_megabytes(),
    }


def predict_text(path: str) -> dict[str, Any]:
    import tensorflow as tf

    imports = get_peak_megabytes()
    start = time.perf_counter()
    served = tf.saved_model.load(path)
    load_seconds = time.perf_counter() - start
    generator = np.random.default_rng(0)
    seconds = []
    for _ in range(NUM_PREFIXES + 1):  # the first traces
        text = " ".join(f"w{word}" for word in generator.integers(1_000_000, size=PREFIX_LENGTH))
        start = time.perf_counter()
        served.signatures["next_words"](text=tf.constant([text]), k=tf.constant(NUM_BEST))
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds[1:]),
        "load_seconds": load_seconds,
        "imports": imports,
        "peak": get_peak_megabytes(),
    }


# The tables.


def run_apart(function: Callable[..., dict[str, Any]], *values: Any) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, values)


def compute_directory_megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary-size", type=int, default=10_240_000)
    parser.add_argument("--units", type=int, default=512, help="D and H (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument(
        "--row-reading",
        choices=("half-steps", "gate", "gate-and-shift"),
        default="half-steps",
        help="how a column depends on its row (default: %(default)s)",
    )
    parser.add_argument("--gate-dim", type=int, help="of the input gate (default: the model's)")
    parser.add_argument("--saved-model", action="store_true", help="export that as well")
    arguments = parser.parse_args(argv)

    built = run_apart(build, arguments)
    num_rows, num_columns = built["shape"]
    full = 2 * arguments.vocabulary_size * arguments.units * 4 / 1e6
    print(
        f"V = {arguments.vocabulary_size:,} words in {num_rows} x {num_columns} cells, D = H = "
        f"{arguments.units}, {arguments.layers} layers: {built['parameters']:,} parameters.\n"
        f"Built in {built['seconds']:.1f} s, peak memory {built['peak']:,.0f} MB (imports "
        f"{built['imports']:,.0f} MB).\n\n"
        "| model | MB | of the full softmax | exported in | peak MB exporting | best "
        f"{NUM_BEST} in | rows read | all rows in | peak MB predicting (imports) |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
        f"| one vector a word, in and out, float32 (arithmetic) | {full:,.0f} | 1 | | | | | | |",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as directory:
        for quantize in PRECISIONS:
            path = Path(directory, f"{quantize}.tflite")
            exported = run_apart(export, arguments, quantize, str(path))
            found = run_apart(predict, str(path))
            megabytes = path.stat().st_size / 1e6
            print(
                f"| LiteRT {quantize or 'float32'} | {megabytes:.1f} | 1 / {full / megabytes:,.0f} "
                f"| {exported['seconds']:.1f} s | {exported['peak']:,.0f} "
                f"| {1e3 * found['seconds']:.1f} ms | {found['rows']:.0f} of {num_rows} "
                f"| {found['all_seconds']:.2f} s "
                f"| {found['peak']:,.0f} ({found['imports']:,.0f}) |",
                flush=True,
            )
        if arguments.saved_model:
            path = Path(directory, "saved_model")
            exported = run_apart(export_text, arguments, str(path))
            found = run_apart(predict_text, str(path / "1"))
            words = compute_directory_megabytes(path / "1" / "assets")
            megabytes = compute_directory_megabytes(path) - words
            print(
                f"| SavedModel float32, and {words:.0f} MB of spelling | {megabytes:.1f} "
                f"| 1 / {full / megabytes:,.0f} | {exported['seconds']:.1f} s "
                f"| {exported['peak']:,.0f} | {1e3 * found['seconds']:.1f} ms | | "
                f"| {found['peak']:,.0f} ({found['imports']:,.0f}), loaded in "
                f"{found['load_seconds']:.1f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
