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
        self.read_column = self.interpreter.get_signature_runner("column_half_step")
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

    def next_cells(self, cells, k):
        """Return the `k` likeliest cells to follow a text and their log-probabilities."""
        states = np.zeros((1, *self.state_shape), np.float32)
        for place, cell in enumerate(cells):
            if place:
                row = cell // self.num_columns
                states = self.read_row(rows=np.int32([row]), states=states)["states"]
            read = self.read_column(cells=np.int32([cell]), states=states)
            states = read["states"]
        best = []
        for row in np.argsort(-read["row_log_probs"][0]):
            log_prob = float(read["row_log_probs"][0, row])
            if len(best) == k and best[-1][0] >= log_prob:
                break
            columns = self.read_row(rows=np.int32([row]), states=states)["column_log_probs"][0]
            first = row * self.num_columns
            best += [(log_prob + float(p), first + column) for column, p in enumerate(columns)]
            best = sorted(best, reverse=True)[:k]
        return [int(cell) for _, cell in best], [log_prob for log_prob, _ in best]


def main():
    phone = Phone(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as file:
        texts = json.load(file)
    answers = [[phone.score([text])[0].tolist(), *phone.next_cells(text, 10)] for text in texts]
    assert not {"tensorflow", "keras"} & set(sys.modules)
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
