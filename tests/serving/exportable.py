"""A small model with everything that may go wrong in an export."""

from __future__ import annotations

import keras
import numpy as np

from keras_lightrnn import Allocation, LightRNNModel

V, R, C = 43, 20, 3  # more rows than are searched at once, empty cells, an empty row
READER = {"row_reading": "reader"}
MIXTURE = {"row_reading": "reader", "num_components": 3}


def make_cells():
    return np.random.default_rng(0).permutation(np.arange(3, R * C))[:V]


def make_model(recurrence="lstm", word_bias="counts", num_layers=2, cells=None, **kwargs):
    keras.utils.set_random_seed(0)
    model = LightRNNModel(
        Allocation(make_cells() if cells is None else cells, R, C),
        units=6,
        num_layers=num_layers,
        recurrence=recurrence,
        word_bias=word_bias,
        **{"embedding_dim": 5, "row_reading": "recurrence", **kwargs},
    )
    model.build((2, 5))
    # Random biases too, and weights that make words differ.
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(np.random.default_rng(index).normal(size=weight.shape))
    if word_bias is not None:
        model.assign_word_counts(np.arange(model.word_table.vocabulary_size, 0, -1))
    return model
