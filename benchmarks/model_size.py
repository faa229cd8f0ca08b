"""Size of a language model of ten million words, and the response time of its LiteRT files.

Builds a `LightRNNModel` without word bias, exports it to LiteRT in every precision, and finds the
ten likeliest next words with the LiteRT runtime alone, on one thread. A separate process measures
each line of the tables, so that peak memory belongs to that line. The memory of the imports is
printed too. The sizes include everything that a phone must hold except for the spelling of the
words.

The weights are not trained. The biases of rows and columns follow Zipf's law, for words ordered by
frequency, so that the distribution is as steep as that of text. That of a trained model is steeper:
`--steepness` is the power of the shares. "All rows" is the time of a search that can rule out no
row. Times of a phone are CPU time, for one thread on a machine that does other things, too.

With `--tables N`, the first table is ordered by frequency and the others are random. The columns of
a model that is not trained do not depend on the row, so in a random table the prediction of ten
million words would be flatter than in the first: its entropy is 15.0 nats, and 11.4 in the first.
The power of its shares is higher by a factor of 1.5, which makes 11.4 of both. (Zipf's law has
11.2; with `--steepness 1.5` it is 6.4 in the first and 5.6 in the second table.) A phone that
searches several tables also needs the word in each cell of the further ones. It inverts the cells
of the file once, at its start.

    python benchmarks/model_size.py
    python benchmarks/model_size.py --layers 1 --row-reading gate --gate-dim 64 --tables 2 \\
        --tie-embeddings
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
CELLS_AT_ONCE = 1 << 16
FURTHER_STEEPNESS = 1.5  # see above


def make_model(arguments: argparse.Namespace) -> Any:
    import keras

    from keras_lightrnn import Allocation, LightRNNModel
    from keras_lightrnn.layers import GatedRowReader

    keras.utils.set_random_seed(0)
    vocabulary_size = arguments.vocabulary_size
    allocations = [Allocation.by_frequency(vocabulary_size)]
    allocations += [Allocation.random(vocabulary_size, seed=i) for i in range(1, arguments.tables)]
    row_reading: Any = "recurrence"
    if arguments.row_reading != "half-steps":
        has_shift = arguments.row_reading == "gate-and-shift"
        row_reading = GatedRowReader(allocations[0].num_rows, has_shift)
    model = LightRNNModel(
        allocations,
        arguments.units,
        arguments.units,
        arguments.layers,
        row_reading=row_reading,
        gate_dim=arguments.gate_dim,
        tie_embeddings=arguments.tie_embeddings,
    )
    model.build((None, None))
    shares = 1 / (np.arange(vocabulary_size, dtype=np.float32) + 2.7)
    for index, (embedding, softmax) in enumerate(
        zip(model.embedding.list_tables(), model.softmax.list_tables(), strict=True)
    ):
        if row_reading != "recurrence":
            # Gates start at zero, and a file stores equal tensors only once.
            for gates in (embedding.input_gate, *softmax.row_reader.row_weights):
                gates.assign(keras.random.normal(gates.shape, stddev=0.1))
        by_cell = np.full(allocations[index].num_cells, shares[-1])  # of empty cells, any
        by_cell[allocations[index].cells] = shares
        by_cell = by_cell.reshape(allocations[index].shape)
        steepness = arguments.steepness * (FURTHER_STEEPNESS if index else 1)
        softmax.row_bias.assign(steepness * np.log(by_cell.sum(axis=1)))
        softmax.column_bias.assign(steepness * np.log(by_cell.sum(axis=0)))
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


def predict(path: str, vocabulary_size: int) -> dict[str, Any]:
    import ai_edge_litert.interpreter  # noqa: F401

    imports = get_peak_megabytes()
    start = time.process_time()
    phone = Phone(path, vocabulary_size)
    ready_seconds = time.process_time() - start
    generator = np.random.default_rng(0)
    prefixes = generator.integers(vocabulary_size, size=(NUM_PREFIXES, PREFIX_LENGTH))
    phone.find_best(prefixes[0])
    seconds, rows_read = [], []
    for prefix in prefixes:
        start = time.process_time()
        rows_read.append(phone.find_best(prefix)[2])
        seconds.append(time.process_time() - start)
    peak = get_peak_megabytes()
    start = time.process_time()
    phone.find_best(prefixes[0], may_stop=False)
    return {
        "seconds": statistics.median(seconds),
        "rows": statistics.median(rows_read),
        "all_seconds": time.process_time() - start,
        "ready_seconds": ready_seconds,
        "imports": imports,
        "peak": peak,
    }


class Phone:
    """Finds the likeliest next words with the LiteRT runtime alone, exactly.

    Words are numbered by their cells in the first table.

    Args:
        path: The LiteRT file.
        vocabulary_size: Integer, the number of words, which must be in the first cells.
    """

    def __init__(self, path: str, vocabulary_size: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(path, num_threads=1)
        get_signature = interpreter.get_signature_runner
        names = [x for x in interpreter.get_signature_list() if x.startswith("row_half_step")]
        self.suffixes = ["", *(f"_{index}" for index in range(1, len(names)))]
        self.read_column = get_signature("column_half_step")
        self.row_readers = [get_signature(f"row_half_step{suffix}") for suffix in self.suffixes]
        outputs = [reader.get_output_details() for reader in self.row_readers]
        self.num_columns = [int(output["column_log_probs"]["shape"][1]) for output in outputs]
        self.state_shape = tuple(outputs[0]["states"]["shape"][1:])
        self.further_cells = get_signature("further_cells") if len(self.suffixes) > 1 else None
        self.words = self._find_words(vocabulary_size)

    def _find_words(self, vocabulary_size: int) -> list[Any]:
        """Return, for each table, the word in each cell; `None` for the first."""
        outputs = self.read_column.get_output_details()
        num_rows = [outputs[f"row_log_probs{suffix}"]["shape"][1] for suffix in self.suffixes]
        shapes = list(zip(num_rows, self.num_columns, strict=True))
        all_words = [np.zeros(rows * columns, np.int32) for rows, columns in shapes[1:]]
        for start in range(0, vocabulary_size if self.further_cells else 0, CELLS_AT_ONCE):
            end = min(start + CELLS_AT_ONCE, vocabulary_size)
            _, *cells = self.find_cells(np.arange(start, end))
            for words, of_table in zip(all_words, cells, strict=True):
                words[of_table] = np.arange(start, end)
        return [None, *all_words]

    def find_cells(self, words: np.ndarray) -> list[np.ndarray]:
        """Return the cells of words in each table."""
        if self.further_cells is None:
            return [words]
        found = self.further_cells(cells=words.astype(np.int32))
        return [words, *(found[f"cells{suffix}"] for suffix in self.suffixes[1:])]

    def read(self, prefix: np.ndarray) -> list[Rows]:
        """Return the rows of each table after a text."""
        states = np.zeros((1, *self.state_shape), np.float32)
        for place, word in enumerate(prefix):
            # With a row reader, as several tables have, this leaves the states as they are.
            if place and self.further_cells is None:
                row = np.array([word // self.num_columns[0]], np.int32)
                states = self.row_readers[0](rows=row, states=states)["states"]
            read = self.read_column(cells=np.array([word], np.int32), states=states)
            states = read["states"]
        return [
            Rows(self, table, read[f"row_log_probs{suffix}"][0], states)
            for table, suffix in enumerate(self.suffixes)
        ]

    def find_best(
        self, prefix: np.ndarray, may_stop: bool = True
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the likeliest words, best first, their probabilities, and how many rows were read.

        The probability of a word is the sum of its shares, one for each of `T` tables. A word as
        likely as the last of the best has a share of at least a `T`-th of that. When no row that
        was not read is as likely as this bound, all such shares were found. Where such a word may
        still be among the best, its rows in the other tables are read.
        """
        tables = self.read(prefix)
        for table in tables:
            table.read(table.list_rows(0.0, ROWS_AT_ONCE if may_stop else None))
        last = max(table.find_share(NUM_BEST) for table in tables)
        is_complete = False
        while not is_complete:
            words = np.unique(np.concatenate([x.list_words(last / len(tables)) for x in tables]))
            cells = self.find_cells(words)
            shares = [x.bound_shares(of_table) for x, of_table in zip(tables, cells, strict=True)]
            least, most = np.sum(shares, axis=0)
            last = max(last, np.partition(least, -NUM_BEST)[-NUM_BEST])
            is_unsure = (least < most) & (most >= last)
            is_complete = True
            for table, of_table in zip(tables, cells, strict=True):
                rows = np.union1d(
                    table.list_rows(last / len(tables), ROWS_AT_ONCE),
                    table.list_rows_of(of_table[is_unsure]),
                )
                table.read(rows)
                is_complete = is_complete and not len(rows)
        best = np.argsort(-least)[:NUM_BEST]
        return words[best], least[best], sum(len(table.shares) for table in tables)


class Rows:
    """The rows of one table after one text, and the shares of words in those that were read.

    Args:
        phone: `Phone`.
        table: Integer.
        log_probs: `(R,)`, of the rows.
        states: `(1, S, H)`.
    """

    def __init__(self, phone: Phone, table: int, log_probs: np.ndarray, states: np.ndarray) -> None:
        self.reader, self.words = phone.row_readers[table], phone.words[table]
        self.log_probs, self.probs = log_probs, np.exp(log_probs)
        self.states = np.repeat(states, ROWS_AT_ONCE, axis=0)
        self.num_rows = len(log_probs)
        self.num_columns = phone.num_columns[table]
        self.shares = np.empty((0, self.num_columns), np.float32)
        self.places = np.full(self.num_rows, -1)  # of rows in `shares`; -1 if they were not read
        self.bound, self.found = 0.0, []  # cells of at least that share, and their shares

    def read(self, rows: np.ndarray) -> None:
        parts = [self.shares]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            columns = self.reader(rows=some, states=self.states[: len(some)])["column_log_probs"]
            shares = np.exp(self.log_probs[some, None] + columns)
            parts.append(shares)
            places = np.flatnonzero(shares >= self.bound)
            cells = some[places // self.num_columns] * self.num_columns + places % self.num_columns
            self.found.append((cells, shares.ravel()[places]))
        self.places[rows] = len(self.shares) + np.arange(len(rows))
        self.shares = np.concatenate(parts)

    def list_rows(self, bound: float, size: int | None) -> np.ndarray:
        """Return at most `size` rows to read, the likeliest ones of at least this probability."""
        rows = np.flatnonzero((self.places < 0) & (self.probs >= bound))
        return rows[np.argsort(-self.probs[rows])][:size].astype(np.int32)

    def list_rows_of(self, cells: np.ndarray) -> np.ndarray:
        """Return the rows of cells that were not read."""
        rows = np.unique(cells // self.num_columns).astype(np.int32)
        return rows[self.places[rows] < 0]

    def find_share(self, number: int) -> float:
        """Return the `number`-th largest share in the rows that were read."""
        return np.partition(self.shares.ravel(), -number)[-number]

    def list_words(self, bound: float) -> np.ndarray:
        """Return the words of at least a share, which never falls, in the rows that were read."""
        cells, shares = (np.concatenate(parts) for parts in zip(*self.found, strict=True))
        is_kept = shares >= bound
        self.bound, self.found = bound, [(cells[is_kept], shares[is_kept])]
        return self.found[0][0] if self.words is None else self.words[self.found[0][0]]

    def bound_shares(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the most share that words in cells may have."""
        rows = cells // self.num_columns
        is_read = self.places[rows] >= 0
        shares = self.shares[self.places[rows], cells % self.num_columns]
        return np.where(is_read, shares, 0), np.where(is_read, shares, self.probs[rows])


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
    parser.add_argument("--tie-embeddings", action="store_true")
    parser.add_argument("--tables", type=int, default=1, help="more than 1 need a row reader")
    parser.add_argument("--steepness", type=float, default=1.0, help="power of Zipf's shares")
    parser.add_argument("--saved-model", action="store_true", help="export that as well")
    arguments = parser.parse_args(argv)

    built = run_apart(build, arguments)
    num_rows, num_columns = built["shape"]
    all_rows = num_rows * arguments.tables
    full = 2 * arguments.vocabulary_size * arguments.units * 4 / 1e6
    print(
        f"V = {arguments.vocabulary_size:,} words in {arguments.tables} table(s) of {num_rows} x "
        f"{num_columns} cells, D = H = {arguments.units}, {arguments.layers} layers: "
        f"{built['parameters']:,} parameters.\n"
        f"Built in {built['seconds']:.1f} s, peak memory {built['peak']:,.0f} MB (imports "
        f"{built['imports']:,.0f} MB).\n\n"
        "| model | MB | of the full softmax | exported in | peak MB exporting | best "
        f"{NUM_BEST} in | rows read | all rows in | ready in | peak MB predicting (imports) |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
        f"| one vector a word, in and out, float32 (arithmetic) | {full:,.0f} | 1 | | | | | | | |",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as directory:
        for quantize in PRECISIONS:
            path = Path(directory, f"{quantize}.tflite")
            exported = run_apart(export, arguments, quantize, str(path))
            found = run_apart(predict, str(path), arguments.vocabulary_size)
            megabytes = path.stat().st_size / 1e6
            print(
                f"| LiteRT {quantize or 'float32'} | {megabytes:.1f} | 1 / {full / megabytes:,.0f} "
                f"| {exported['seconds']:.1f} s | {exported['peak']:,.0f} "
                f"| {1e3 * found['seconds']:.1f} ms | {found['rows']:.0f} of {all_rows} "
                f"| {found['all_seconds']:.2f} s | {found['ready_seconds']:.2f} s "
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
                f"| {exported['peak']:,.0f} | {1e3 * found['seconds']:.1f} ms | | | "
                f"| {found['peak']:,.0f} ({found['imports']:,.0f}), loaded in "
                f"{found['load_seconds']:.1f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
