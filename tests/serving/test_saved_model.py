from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lightrnn import Allocation, LightRNNModel
from keras_lightrnn.serving import export_saved_model

# A process that knows neither this package nor Keras.
SERVE = """
import sys, numpy as np, tensorflow as tf
served = tf.saved_model.load(sys.argv[1])
assert not any(name.startswith("keras_lightrnn") for name in sys.modules)
words = np.load(sys.argv[2])
for name in ("score_ids", "serving_default"):
    result = served.signatures[name](words=tf.constant(words))
    np.save(sys.argv[3] + name + ".npy", result["log_probs"].numpy())
"""


@pytest.mark.parametrize("stateful", [False, True])
def test_scores_in_a_fresh_process(tmp_path, stateful):
    keras.utils.set_random_seed(0)
    allocation = Allocation.random(23, 4, 7, seed=1)
    model = LightRNNModel(allocation, 6, 5, 2, stateful=stateful, word_bias="counts")
    model.assign_word_counts(np.arange(1, 24))
    model.build((2, 5))
    export_saved_model(model, tmp_path / "model" / "1")
    words = np.random.default_rng(0).integers(23, size=(3, 9)).astype("int32")
    np.save(tmp_path / "words.npy", words)
    subprocess.run(
        [sys.executable, "-c", SERVE, tmp_path / "model" / "1", tmp_path / "words.npy"]
        + [f"{tmp_path}/"],
        check=True,
        cwd=tmp_path,
    )
    for name in ("score_ids", "serving_default"):
        served = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_allclose(served, model.score(words), atol=1e-5)


def test_bad_ids_are_an_error(tmp_path):
    model = LightRNNModel(10, 4, 4)
    model.build((None, None))
    export_saved_model(model, tmp_path / "1")
    served = tf.saved_model.load(str(tmp_path / "1"))
    for wrong in (-1, 10):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Word ids must"):
            served.signatures["score_ids"](words=tf.constant([[1, wrong]]))


def test_model_must_be_built(tmp_path):
    with pytest.raises(ValueError, match="must be built"):
        export_saved_model(LightRNNModel(10, 4, 4), tmp_path / "1")
