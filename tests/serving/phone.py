"""What an application on a phone does with an exported LiteRT file: no TensorFlow, no Keras.

python phone.py MODEL.tflite WORDS.json prints the log-probabilities of the words (cells) of
each text, and the 10 likeliest cells to follow it, as JSON.
"""

from __future__ import annotations

import json
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Phone:
    def __init__(self, path):
        self.interpreter = Interpreter(str(path))
        names = self.interpreter.get_signature_list()
        # The first reads one word, the second a whole text.
        self.read_column, self.read_text = (
            self.interpreter.get_signature_runner(name) if name in names else None
            for name in ("column_half_step", "read_text")
        )
        self.read_row = self.interpreter.get_signature_runner("row_half_step")
        self.state_shape = self.read_row.get_input_details()["states"]["shape"][1:]
        self.num_columns = self.read_row.get_output_details()["column_log_probs"]["shape"][1]

    def score(self, cells):
        """Return the log-probabilities of all but the first of texts `(B, N)` of cells."""
        cells = np.asarray(cells, np.int32)
        rows, columns = np.divmod(cells, self.num_columns)
        texts = np.arange(len(cells))
        states = np.zeros((len(cells), *self.state_shape), np.float32)
        log_probs = []
        for t in range(rows.shape[1] - 1):
            read = self.read_column(cells=cells[:, t].copy(), states=states)
            row_log_probs = read["row_log_probs"][texts, rows[:, t + 1]]
            read = self.read_row(rows=rows[:, t + 1].copy(), states=read["states"])
            states = read["states"]
            log_probs.append(row_log_probs + read["column_log_probs"][texts, columns[:, t + 1]])
        return np.stack(log_probs, axis=1)

    def read(self, cells, text_length=None):
        """Return the outputs after a text; `text_length` is that of the export, if it is fixed."""
        if self.read_text is not None:
            padded = np.zeros((1, text_length or len(cells)), np.int32)
            padded[0, : len(cells)] = cells
            return self.read_text(cells=padded, length=np.int32([len(cells)]))
        states = np.zeros((1, *self.state_shape), np.float32)
        for place, cell in enumerate(cells):
            if place:
                row = cell // self.num_columns
                states = self.read_row(rows=np.int32([row]), states=states)["states"]
            read = self.read_column(cells=np.int32([cell]), states=states)
            states = read["states"]
        return read

    def next_cells(self, cells, k, text_length=None):
        """Return the `k` likeliest cells to follow a text and their log-probabilities."""
        read = self.read(cells, text_length)
        states, best = read["states"], []
        for row in np.argsort(-read["row_log_probs"][0]):
            log_prob = float(read["row_log_probs"][0, row])
            if len(best) == k and best[-1][0] >= log_prob:
                break
            columns = self.read_row(rows=np.int32([row]), states=states)["column_log_probs"][0]
            first = row * self.num_columns
            best += [(log_prob + float(p), first + column) for column, p in enumerate(columns)]
            best = sorted(best, reverse=True)[:k]
        return [int(cell) for _, cell in best], [log_prob for log_prob, _ in best]


class TablesPhone(Phone):
    """Decodes a model of several word tables. Words are cells of the first table."""

    def __init__(self, path):
        super().__init__(path)
        names = sorted(x for x in self.interpreter.get_signature_list() if "row_half" in x)
        self.suffixes = [name.removeprefix("row_half_step") for name in names]
        self.readers = [self.interpreter.get_signature_runner(name) for name in names]
        self.find_cells = self.interpreter.get_signature_runner("further_cells")
        shapes = [x.get_output_details()["column_log_probs"]["shape"] for x in self.readers]
        self.widths = [shape[1] for shape in shapes]

    def locate(self, cells):
        """Return the row and the column of words in each table."""
        found = self.find_cells(cells=np.int32(cells))
        of_tables = [np.asarray(cells), *(found[f"cells{x}"] for x in self.suffixes[1:])]
        return [np.divmod(x, size) for x, size in zip(of_tables, self.widths, strict=True)]

    def score_next(self, read, cells):
        """Return the log-probabilities of one word after each text."""
        texts, shares = np.arange(len(cells)), []
        for suffix, reader, (rows, columns) in zip(
            self.suffixes, self.readers, self.locate(cells), strict=True
        ):
            of_columns = reader(rows=np.int32(rows), states=read["states"])["column_log_probs"]
            row_log_probs = read[f"row_log_probs{suffix}"][texts, rows]
            shares.append(row_log_probs + of_columns[texts, columns])
        return np.logaddexp.reduce(shares)

    def score(self, cells):
        cells = np.asarray(cells, np.int32)
        states = np.zeros((len(cells), *self.state_shape), np.float32)
        log_probs = []
        for t in range(cells.shape[1] - 1):
            read = self.read_column(cells=cells[:, t].copy(), states=states)
            log_probs.append(self.score_next(read, cells[:, t + 1]))
            states = read["states"]
        return np.stack(log_probs, axis=1)

    def next_cells(self, cells, k, text_length=None):
        read = self.read(cells, text_length)
        states = read["states"]
        # Rows of the first table hold all words: as many of them are read as may have one.
        of_others = [np.exp(read[f"row_log_probs{x}"][0]).max() for x in self.suffixes[1:]]
        found = {}
        for row in np.argsort(-read["row_log_probs"][0]):
            bound = np.exp(read["row_log_probs"][0, row]) + sum(of_others)
            if len(found) >= k and sorted(found.values())[-k] >= np.log(bound):
                break
            columns = self.readers[0](rows=np.int32([row]), states=states)["column_log_probs"][0]
            new = row * self.widths[0] + np.flatnonzero(columns > -65_504)
            for cell in new:
                found[int(cell)] = float(self.score_next(read, np.int32([cell]))[0])
        best = sorted(found, key=lambda cell: -found[cell])[:k]
        return best, [found[cell] for cell in best]


def make_phone(path):
    names = Interpreter(str(path)).get_signature_list()
    return TablesPhone(path) if "further_cells" in names else Phone(path)


def main():
    phone = make_phone(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as file:
        texts = json.load(file)
    answers = [[phone.score([text])[0].tolist(), *phone.next_cells(text, 10)] for text in texts]
    assert not {"tensorflow", "keras"} & set(sys.modules)
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
