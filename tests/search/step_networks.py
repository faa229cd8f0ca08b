"""Small networks of many kinds with steps, and their distributions without steps."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.search import StepNetwork, generate

DIM = 6


class Model:
    """A model that generates and that knows the distribution after texts of one length.

    Args:
        vocabulary_size: Integer `V`.
    """

    def __init__(self, vocabulary_size, mask_zero=False, num_tables=1):
        self.vocabulary_size = vocabulary_size
        self.mask_zero = mask_zero
        self.tables = [
            WordTable(Allocation.random(vocabulary_size, seed=seed)) for seed in range(num_tables)
        ]

    def generate(self, prefix, **options):
        return generate(self.network, self.softmax, prefix, **options)

    def compute_distributions(self, texts, source=None):
        """Return the log-probabilities of all words after texts `(n, N)`, `(n, V)`."""
        raise NotImplementedError

    def predict(self, states):
        """Return the log-probabilities of all words from states `(n, H)`, by scoring each."""
        targets = np.tile(np.arange(self.vocabulary_size), len(states))
        repeated = ops.repeat(states, self.vocabulary_size, axis=0)
        log_probs = np.array(ops.convert_to_numpy(self.softmax(repeated, targets))).reshape(
            -1, self.vocabulary_size
        )
        if self.mask_zero:
            log_probs[:, 0] = -np.inf
        return log_probs


class Recurrent(Model):
    """`LightRNNModel`."""

    def __init__(self, *args, row_reading="reader", num_components=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.model = LightRNNModel(
            self.tables,
            DIM,
            DIM,
            recurrence="gru",
            mask_zero=self.mask_zero,
            row_reading=row_reading,
            num_components=num_components,
        )
        self.model.build((None, None))
        spread(self.model)

    def generate(self, prefix, source=None, **options):
        return self.model.generate(prefix, **options)

    def compute_distributions(self, texts, source=None):
        log_probs = self.model.word_log_probs(texts)
        if self.mask_zero:
            log_probs[:, 0] = -np.inf
        return log_probs


class Composed(Model):
    """A recurrent layer of Keras."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.embedding = TwoComponentEmbedding(self.tables, DIM, "gate", mask_zero=self.mask_zero)
        self.gru = keras.layers.GRU(DIM, return_sequences=True, return_state=True)
        self.softmax = TwoComponentSoftmax(
            self.tables, row_reader="gated", mask_zero=self.mask_zero
        )
        self.softmax.build((None, None, DIM))
        self.compute_distributions(np.ones((1, 2), int))
        spread(self.embedding, self.gru, self.softmax)
        self.network = ComposedSteps(self)

    def compute_distributions(self, texts, source=None):
        return self.predict(self.gru(self.embedding(texts))[0][:, -1])


class ComposedSteps(StepNetwork):
    def __init__(self, model):
        self.model = model

    def start(self, words, lengths, max_length, source=None):
        mask = ops.arange(words.shape[1], dtype="int32") < lengths[:, None]
        _, state = self.model.gru(self.model.embedding(words), mask=mask)
        return state, {"state": state}

    def step(self, words, cache):
        vectors = self.model.embedding(words[:, None])
        _, state = self.model.gru(vectors, initial_state=cache["state"])
        return state, {"state": state}


class HalfSteps(Model):
    """A recurrent layer of Keras on half-steps."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.embedding = TwoComponentEmbedding(self.tables, DIM, combine="interleave")
        self.gru = keras.layers.GRU(DIM, return_sequences=True, return_state=True)
        self.softmax = TwoComponentSoftmax(self.tables, row_reader=None)
        self.softmax.build((None, None, DIM))
        self.compute_distributions(np.ones((1, 2), int))
        spread(self.embedding, self.gru, self.softmax)
        self.network = HalfStepSteps(self)

    def compute_distributions(self, texts, source=None):
        every = np.tile(np.arange(self.vocabulary_size), len(texts))[:, None]
        windows = np.concatenate([np.repeat(texts, self.vocabulary_size, axis=0), every], axis=1)
        log_probs = self.softmax(self.gru(self.embedding(windows))[0], windows[:, 1:])
        return ops.convert_to_numpy(log_probs)[:, -1].reshape(-1, self.vocabulary_size)


class HalfStepSteps(StepNetwork):
    def __init__(self, model):
        self.model = model

    def start(self, words, lengths, max_length, source=None):
        places = (ops.arange(2 * words.shape[1] - 1, dtype="int32") + 1) // 2
        mask = places < lengths[:, None]
        _, state = self.model.gru(self.model.embedding.embed_prefixes(words), mask=mask)
        return state, state

    def step(self, words, cache):
        rows, columns = self.model.embedding.embed_components(words)
        half_steps = ops.stack([rows, columns], axis=1)
        _, state = self.model.gru(half_steps, initial_state=cache)
        return state, state

    def read_rows(self, rows, cache):
        vectors = ops.take(self.model.embedding.row_embeddings, rows, axis=0)
        return self.model.gru(vectors[:, None], initial_state=cache)[1]


class Attention(Model):
    """A causal layer of attention with positions, whose cache holds keys and values."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.embedding = TwoComponentEmbedding(self.tables, DIM, "gate")
        self.positions = keras.layers.Embedding(20, DIM, "normal")
        self.attention = keras.layers.MultiHeadAttention(2, 3)
        self.softmax = TwoComponentSoftmax(self.tables, row_reader="gated")
        self.softmax.build((None, None, DIM))
        self.compute_distributions(np.ones((1, 2), int))
        spread(self.embedding, self.attention, self.softmax)
        self.network = AttentionSteps(self)

    def embed(self, words, places):
        return self.embedding(words) + self.positions(places)

    def compute_distributions(self, texts, source=None):
        x = self.embed(texts, np.arange(texts.shape[1]))
        x += self.attention(x, x, use_causal_mask=True)
        return self.predict(x[:, -1])


class AttentionSteps(StepNetwork):
    def __init__(self, model):
        self.model = model

    def start(self, words, lengths, max_length, source=None):
        x = self.model.embed(words, np.arange(words.shape[1]))
        attention = self.model.attention
        room = [(0, 0), (0, max_length - words.shape[1]), (0, 0), (0, 0)]
        cache = {
            "keys": ops.pad(attention.key_dense(x), room),
            "values": ops.pad(attention.value_dense(x), room),
            "lengths": lengths,
        }
        x += attention(x, x, use_causal_mask=True)
        return ops.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0], cache

    def step(self, words, cache):
        lengths, attention = cache["lengths"], self.model.attention
        x = self.model.embed(words, lengths)[:, None]  # (B, 1, D)
        places = ops.arange(cache["keys"].shape[1], dtype="int32")
        is_here = (places == lengths[:, None])[:, :, None, None]
        keys = ops.where(is_here, attention.key_dense(x), cache["keys"])
        values = ops.where(is_here, attention.value_dense(x), cache["values"])
        read = ops.dot_product_attention(
            attention.query_dense(x),
            keys,
            values,
            mask=(places <= lengths[:, None])[:, None, None, :],
        )
        x += attention.output_dense(read)
        return x[:, 0], {"keys": keys, "values": values, "lengths": lengths + 1}


class Translation(Composed):
    """A decoder that starts from the state of an encoder."""

    def __init__(self, *args, **kwargs):
        self.encoder = keras.layers.Dense(DIM, "tanh")
        super().__init__(*args, **kwargs)
        spread(self.encoder)
        self.network = TranslationSteps(self)

    def compute_distributions(self, texts, source=None):
        source = ops.zeros((len(texts), 4)) if source is None else source
        state = self.encoder(source)
        return self.predict(self.gru(self.embedding(texts), initial_state=state)[0][:, -1])


class TranslationSteps(ComposedSteps):
    def start(self, words, lengths, max_length, source=None):
        mask = ops.arange(words.shape[1], dtype="int32") < lengths[:, None]
        state = self.model.encoder(source)
        _, state = self.model.gru(self.model.embedding(words), mask=mask, initial_state=state)
        return state, {"state": state}


def spread(*layers):
    """Make the distributions of a network far from uniform."""
    weights = [weight for layer in layers for weight in layer.trainable_weights]
    for index, weight in enumerate(weights):
        weight.assign(np.random.default_rng(index).normal(scale=0.7, size=weight.shape))


KINDS = {
    "reader": lambda size: Recurrent(size, num_components=2),
    "recurrence": lambda size: Recurrent(size, row_reading="recurrence"),
    "two tables": lambda size: Recurrent(size, num_tables=2),
    "mask_zero": lambda size: Recurrent(size, mask_zero=True),
    "recurrence with mask_zero": lambda size: Recurrent(
        size, row_reading="recurrence", mask_zero=True
    ),
    "composed": Composed,
    "composed with mask_zero": lambda size: Composed(size, mask_zero=True),
    "half-steps": HalfSteps,
    "attention": Attention,
    "translation": Translation,
}
