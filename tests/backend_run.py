"""What every Keras backend must compute alike; `test_backends.py` runs it in subprocesses.

KERAS_BACKEND=jax python backend_run.py weights.npz results.npz
"""

from __future__ import annotations

import copy
import sys

import keras
import numpy as np

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.layers import TopWords, TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.models import ObservedTraining
from keras_lightrnn.reallocation import LikelihoodObjective
from keras_lightrnn.search import NeuralCache, graph_tables


@keras.saving.register_keras_serializable("tests")
class ObservedModel(ObservedTraining, keras.Model):
    """A functional model whose sample weights count in rounds."""


class KeptSums(LikelihoodObjective):
    """An objective that keeps one of its sums, and has no other."""

    def __init__(self, name: str) -> None:
        super().__init__("exact")
        self.sums, self.kept = (name,), []

    def propose(self, sums, weights, allocation, prices=None):
        self.kept.append(sums[self.sums[0]])
        both = dict.fromkeys(("column_sums", "row_sums"), sums[self.sums[0]])
        return super().propose({**sums, **both}, weights, allocation, prices)


V, R, C = 23, 4, 7
WINDOWS = np.random.default_rng(0).integers(V, size=(4, 6)).astype("int32")
PADDED = np.where(np.arange(6) < [[6], [4], [5], [6]], WINDOWS.clip(1), 0)


def make_models() -> dict[str, keras.Model]:
    table = WordTable(Allocation.random(V, R, C, seed=0))
    words = keras.Input((None,), dtype="int32")
    x = TwoComponentEmbedding(table, 5, combine="interleave")(words)
    x = keras.layers.GRU(6, return_sequences=True)(x)
    x = TwoComponentSoftmax(table, word_bias="trainable", row_reader=None)(x, words[:, 1:])
    functional = ObservedModel(words, x)
    allocation = Allocation.random(V, R, C, seed=1)
    padded = LightRNNModel(allocation, 5, 6, mask_zero=True)
    padded.build((None, None))
    whole = LightRNNModel(
        allocation,
        5,
        6,
        word_bias="counts",
        word_dim=2,
        num_word_vectors=V - 5,
        row_reading="recurrence",
    )
    whole.build((None, None))
    tables = LightRNNModel(
        [allocation, Allocation.random(V, C, R, seed=2)], 6, 6, tie_embeddings=True
    )
    tables.build((None, None))
    return {"functional": functional, "padded": padded, "tables": tables, "whole": whole}


def make_weights() -> dict[str, np.ndarray]:
    """Return weights for the models, by model and place."""
    rng = np.random.default_rng(1)
    return {
        f"{name}/{index}": rng.normal(size=weight.shape).astype("float32") * 0.7
        if weight.name != "cells"
        else np.random.default_rng(index).permutation(R * C)[:V].astype("int32")
        for name, model in make_models().items()
        for index, weight in enumerate(model.weights)
    }


def search(model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Return the words to follow, by layers alone."""
    embedding, network, softmax = (
        next(layer for layer in model.layers if isinstance(layer, kind))
        for kind in (TwoComponentEmbedding, keras.layers.GRU, TwoComponentSoftmax)
    )
    prefixes = embedding.embed_prefixes(WINDOWS)

    def read_rows(texts, rows):
        vectors = keras.ops.take(embedding.row_embeddings, rows, axis=0)
        longer = [keras.ops.take(prefixes, texts, axis=0), vectors[:, None]]
        return network(keras.ops.concatenate(longer, axis=1))[:, -1]

    return softmax.next_words(network(prefixes)[:, -1], 5, read_rows)


def compute_results(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    results = {}
    models = make_models()
    for name, model in models.items():
        model.set_weights([weights[f"{name}/{index}"] for index in range(len(model.weights))])
        windows = PADDED if name == "padded" else WINDOWS
        results[f"{name}/log_probs"] = keras.ops.convert_to_numpy(model(windows))
        loss = {"loss": NegativeLogLikelihood()} if name == "functional" else {}
        model.compile(keras.optimizers.SGD(0.5), **loss)
        # The loss of the second epoch is that after one step.
        arguments = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
        history = model.fit(windows, windows[:, 1:], **arguments).history
        for key, values in history.items():
            results[f"{name}/{key}"] = np.array(values)
        if name == "functional":
            results[f"{name}/next_words"], _ = search(model)
            loaded = copy.deepcopy(model)  # which Keras saves to memory and loads
            next(x for x in loaded.layers if hasattr(x, "word_table")).word_table.assign(
                Allocation.random(V, R, C, seed=7)
            )
            results[f"{name}/loaded"] = keras.ops.convert_to_numpy(loaded(windows))
            results |= compute_weighted_sums(model)
    words, log_probs = model.next_words(WINDOWS[0], k=V)
    results |= {"next_words": words, "next_log_probs": log_probs}
    results["next_words_of_several"], _ = model.next_words(WINDOWS, k=3)
    results["score"] = model.score(WINDOWS)
    results["score_with_cache"] = model.score(WINDOWS, cache=NeuralCache(0.4, horizon=4.0))
    longer = WINDOWS[:, [0, *range(6)]]
    states = model.embedding(longer)[:, ::2]  # any tensor of one vector for each word
    results["mixed"] = NeuralCache(0.4, horizon=4.0).mix(states, WINDOWS, model(longer))
    results["greedy"] = model.generate(WINDOWS, length=5, temperature=0)
    model.word_table.assign(Allocation.random(V, R, C, seed=2))
    model.assign_word_counts(np.arange(1, V + 1))
    results["assigned/score"] = model.score(WINDOWS)
    results["assigned/loss"] = np.array(model.fit(WINDOWS, **arguments).history["loss"])
    callback = ReallocationCallback(LikelihoodObjective("exact"), every=3, verbose=0)
    arguments |= {"batch_size": 1, "callbacks": [callback]}  # the first round is in an epoch
    results["rounds/loss"] = np.array(model.fit(WINDOWS, **arguments).history["loss"])
    results["rounds/cost"] = np.array([record["cost"] for record in callback.history])
    results["rounds/cells"] = keras.ops.convert_to_numpy(model.word_table.cells)
    callback = ReallocationCallback(LikelihoodObjective("exact"), every=2, verbose=0)
    arguments |= {"batch_size": 1, "callbacks": [callback]}
    results["rounds of tables/loss"] = np.array(
        models["tables"].fit(WINDOWS, **arguments).history["loss"]
    )
    for name in ("cost", "table"):
        results[f"rounds of tables/{name}"] = np.array([x[name] for x in callback.history])
    for index, table in enumerate(models["tables"].word_tables):
        results[f"rounds of tables/cells {index}"] = keras.ops.convert_to_numpy(table.cells)
    return results | compute_ignored_targets() | compute_search_results()


def compute_ignored_targets() -> dict[str, np.ndarray]:
    """Return losses where a target has the weight 0. JAX, which raises no error, gets no word."""
    keras.utils.set_random_seed(0)
    states, targets = keras.Input((5, 4)), keras.Input((5,), dtype="int32")
    softmax = TwoComponentSoftmax(WordTable(V), kernel_initializer=keras.initializers.Ones())
    model = keras.Model([states, targets], softmax(states, targets))
    model.compile(keras.optimizers.SGD(0.5), loss=NegativeLogLikelihood())
    values = np.linspace(-1, 1, 4 * 5 * 4, dtype="float32").reshape(4, 5, 4)
    words = WINDOWS[:, 1:].copy()
    words[0, 2], words[3, 4] = (-1, V) if keras.backend.backend() == "jax" else (0, 0)
    weights = np.ones((4, 5), "float32")
    weights[0, 2] = weights[3, 4] = 0
    arguments = {"batch_size": 4, "epochs": 3, "shuffle": False, "verbose": 0}
    history = model.fit([values, words], words, sample_weight=weights, **arguments).history
    return {"ignored/loss": np.array(history["loss"])}


def compute_weighted_sums(model: keras.Model) -> dict[str, np.ndarray]:
    """Return sums of states of equal shapes, which compiled steps must not confuse."""
    results = {}
    sample_weight = np.arange(20).reshape(4, 5) % 3
    for name in ("column_sums", "row_sums"):
        for data in (None, (WINDOWS, WINDOWS[:, 1:], sample_weight)):
            objective = KeptSums(name)
            model.fit(
                WINDOWS,
                WINDOWS[:, 1:],
                sample_weight=sample_weight,
                batch_size=2,
                epochs=2,
                shuffle=False,
                verbose=0,
                callbacks=[ReallocationCallback(objective, data=data, verbose=0)],
            )
            results[f"{name} of {'data' if data else 'steps'}"] = np.stack(objective.kept)
    return results


def compute_search_results() -> dict[str, np.ndarray]:
    """Return what `TopWords` and ranks are with one table and two, small and large."""
    largest_share = graph_tables._LARGEST_SHARE
    graph_tables._LARGEST_SHARE = 1 / 4  # lets a bound be tried with tables of 100 rows
    rng, results = np.random.default_rng(3), {}
    states = rng.normal(size=(3, 5)).astype("float32")
    excluded = rng.integers(-1, V, size=(3, 4)).astype("int32")
    for size, *shapes in ((V, (R, C)), (V, (R, C), (C, R)), (990, (100, 10), (110, 9))):
        tables = [Allocation.random(size, *shape, seed=i) for i, shape in enumerate(shapes)]
        softmax = TwoComponentSoftmax(tables, row_reader="gated", num_components=2, mask_zero=True)
        inputs = keras.Input((5,)), keras.Input((4,), dtype="int32")
        model = keras.Model(inputs, TopWords(softmax, k=6)(inputs[0], excluded=inputs[1]))
        for weight in softmax.trainable_weights:
            weight.assign(rng.normal(size=weight.shape))
        words, log_probs = model.predict([states, excluded], verbose=0)
        name = f"{len(tables)} table(s), {size} words"
        results |= {f"{name}/words": words, f"{name}/log_probs": log_probs}
        ranks = softmax.compute_ranks(states, words[:, 3], excluded)
        results[f"{name}/ranks"] = keras.ops.convert_to_numpy(ranks)
        assert results[f"{name}/ranks"].tolist() == [4, 4, 4]
    graph_tables._LARGEST_SHARE = largest_share
    all_alike = TwoComponentSoftmax(Allocation.random(R * C, R, C), kernel_initializer="zeros")
    words, _ = TopWords(all_alike, k=R * C)(states)
    assert keras.ops.convert_to_numpy(words).tolist() == [list(range(R * C))] * len(states)
    return results


if __name__ == "__main__":
    with np.load(sys.argv[1]) as file:
        results = compute_results(dict(file))
    np.savez(sys.argv[2], backend=keras.backend.backend(), **results)
