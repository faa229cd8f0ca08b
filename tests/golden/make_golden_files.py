"""Make the golden files: one of each kind of file, written by an old version of the package.

The files stand for those of users, so do not remake them to make a failing test pass. A new
format gets new files next to the old ones.

    PYTHONPATH=<root of the old version> python tests/golden/make_golden_files.py
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import golden_models
import keras
import numpy as np
import tensorflow as tf
from golden_models import FILES, MODELS

from keras_lightrnn import LightRNNModel
from keras_lightrnn.data import TokenShards
from keras_lightrnn.serving import export_saved_model


def main() -> None:
    shutil.rmtree(FILES, ignore_errors=True)
    FILES.mkdir()
    answers = {}
    for name, make in MODELS.items():
        keras.utils.set_random_seed(5)
        model = make()
        golden_models.train(model, 3)
        model.save(FILES / f"{name}.keras")
        if isinstance(model, LightRNNModel):
            checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
            checkpoint.write(str(FILES / f"{name}.checkpoint"))
        if name == "lstm":
            model.save_weights(FILES / f"{name}.weights.h5")
        if name == "gru":
            with tempfile.TemporaryDirectory() as folder:
                path = export_saved_model(model, golden_models.make_vocabulary(), folder)
                answers["served"] = golden_models.answer_served(tf.saved_model.load(str(path)))
        answers[name] = golden_models.answer(model)

    backup = FILES / "backup.npz"
    with contextlib.suppress(InterruptedError):
        golden_models.run_with_backup(backup, interruption=9)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(backup, folder))
        answers["backup"] = golden_models.run_with_backup(copy)[1]

    golden_models.make_allocation().save(FILES / "allocation.npz")
    vocabulary = golden_models.make_vocabulary()
    vocabulary.save(FILES / "vocabulary.txt")
    ids = np.arange(100) ** 2 % golden_models.V
    TokenShards.write(FILES / "shards", ids, vocabulary, shard_size=40)
    answers["shards"] = ids.tolist()
    answers["cells"] = golden_models.make_allocation().cells.tolist()
    text = json.dumps(round_floats(answers), separators=(",", ":"))
    (FILES / "answers.json").write_text(text + "\n", "utf-8")


def round_floats(values: Any) -> Any:
    """Return what JSON holds with floats of seven digits."""
    return keras.tree.map_structure(
        lambda x: float(f"{x:.7g}") if isinstance(x, float) else x, values
    )


if __name__ == "__main__":
    main()
