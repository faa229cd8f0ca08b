"""Reading a model while it is trained on JAX; the test runs it in a process of its own.

KERAS_BACKEND=jax python reading_run.py results.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

import keras
import numpy as np

from keras_lightrnn import LightRNNModel

WINDOWS = np.random.default_rng(0).integers(23, size=(8, 5))
STATES, TARGETS = np.ones((2, 4), "float32"), WINDOWS[0, :2]
READERS = {
    "score": lambda model: model.score(WINDOWS),
    "next_words": lambda model: model.next_words(WINDOWS, k=3),
    "word_log_probs": lambda model: model.word_log_probs(WINDOWS),
    "generate": lambda model: model.generate(WINDOWS, length=2, seed=0),
    "search with beams": lambda model: model.generate(WINDOWS, length=2, num_beams=2),
    "call": lambda model: model(WINDOWS),
    "softmax.next_words": lambda model: model.softmax.next_words(STATES, k=3),
    "softmax.compute_ranks": lambda model: model.softmax.compute_ranks(STATES, TARGETS),
    "word_table.allocation": lambda model: model.word_table.allocation.cells,
    "word_table.words": lambda model: model.word_table.words,
    "word_table.get_config": lambda model: model.word_table.get_config()["allocation"]["num_rows"],
    "word_table": lambda model: model.word_table(TARGETS),
}


def read(model: keras.Model) -> dict[str, Any]:
    """Return what each reader returns, or the name and the message of its error."""
    results = {}
    for name, reader in READERS.items():
        try:
            parts = keras.tree.flatten(reader(model))
            results[name] = [keras.ops.convert_to_numpy(part).tolist() for part in parts]
        except Exception as error:
            results[name] = f"{type(error).__name__}: {error}"
    return results


class Reader(keras.callbacks.Callback):
    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.same = model  # as by a closure
        self.results: dict[str, Any] = {}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.results["by another name"] = read(self.same)
        self.results["self.model"] = read(self.model)
        self.results["after self.model"] = read(self.same)


if __name__ == "__main__":
    model = LightRNNModel(23, 4, 4)
    model.compile(keras.optimizers.SGD(0.0))  # so that all readings are equal
    model.build((None, None))
    reader = Reader(model)
    before = read(model)
    model.fit(WINDOWS, batch_size=4, callbacks=[reader], verbose=0)
    with open(sys.argv[1], "w") as file:
        json.dump({"before": before, **reader.results, "after": read(model)}, file)
