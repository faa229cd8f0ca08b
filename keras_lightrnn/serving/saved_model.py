"""SavedModel export, for TensorFlow Serving and whatever else loads one."""

from __future__ import annotations

import os
from typing import Any

import keras
import tensorflow as tf

from keras_lightrnn.models import LightRNNModel
from keras_lightrnn.models.decoding import score_windows


def export_saved_model(model: LightRNNModel, path: str | os.PathLike[str]) -> None:
    """Write a SavedModel that scores sequences of word ids, and loads without this package.

    Its signature `score_ids`, which is `serving_default` too, takes `words`, `(B, N)` int32 for
    any `B` and `N`, and returns `log_probs`, `(B, N - 1)` float32 in nats, equal to
    `model.score(words)`. Ids outside the vocabulary are an error from inside the graph.

    Args:
        model: `LightRNNModel`, built, on the TensorFlow backend.
        path: Directory to write; TensorFlow Serving wants it named by a version number, as in
            `"models/lightrnn/1"`.

    Raises:
        RuntimeError: on another backend than TensorFlow.
        ValueError: if the model is not built.

    Example:

    >>> import tempfile
    >>> model = LightRNNModel(50, embedding_dim=8, units=8)
    >>> model.build((None, None))
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     export_saved_model(model, directory)
    ...     served = tf.saved_model.load(directory)
    ...     result = served.signatures["score_ids"](words=tf.constant([[3, 1, 4]]))
    >>> tuple(result["log_probs"].shape)
    (1, 2)
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "A SavedModel is written by TensorFlow. Received: the Keras backend "
            f"{keras.backend.backend()!r}. Save the model as `.keras` and load it where "
            "KERAS_BACKEND=tensorflow."
        )
    if not model.built:
        raise ValueError(
            "A model must be built before it is exported. Received: a model without weights. "
            "Train it, load it, or call `model.build`."
        )
    size = model.word_table.vocabulary_size

    def score_ids(words: Any) -> dict[str, Any]:
        checks = [
            tf.debugging.assert_non_negative(words, message="Word ids must not be negative."),
            tf.debugging.assert_less(words, size, message=f"Word ids must be less than {size}."),
        ]
        with tf.control_dependencies(checks):
            words = tf.identity(words)
        return {"log_probs": score_windows(model, words)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    specification = tf.TensorSpec((None, None), tf.int32, name="words")
    # The first endpoint becomes `serving_default` as well.
    archive.add_endpoint("score_ids", score_ids, [specification])
    archive.write_out(os.fspath(path), verbose=False)
