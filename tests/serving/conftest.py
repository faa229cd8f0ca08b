"""An exportable model and its vocabulary."""

from __future__ import annotations

import pytest
import tensorflow as tf
from exportable import V, make_model

from keras_lightrnn.data import Vocabulary
from keras_lightrnn.serving import ServingLimits, export_saved_model

# Enough for the tests that draw many samples and read long texts.
LIMITS = ServingLimits(max_batch_size=20_000, max_words_per_text=3_000)


@pytest.fixture
def optimized_graphs():
    """Run graphs as servers do, which optimize them: it decides which error comes first."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="session")
def model():
    return make_model()


@pytest.fixture(scope="session")
def vocabulary():
    # The special words are not the first ones, and some words are not ASCII.
    return Vocabulary([*(f"w{i}" for i in range(V - 4)), "<eos>", "naïve", "<unk>", "東京"])


@pytest.fixture(scope="session")
def by_id(model, vocabulary, tmp_path_factory):
    return export_saved_model(model, vocabulary, tmp_path_factory.mktemp("by-id"), limits=LIMITS)


@pytest.fixture(scope="session")
def by_cell(model, vocabulary, tmp_path_factory):
    # Characters that shells treat as special, and TensorFlow must not.
    path = tmp_path_factory.mktemp("by-cell") / "it's {1,2} ~50% of $x & (y); naïve]"
    return export_saved_model(model, vocabulary, path, reorder_vocabulary=True, limits=LIMITS)
