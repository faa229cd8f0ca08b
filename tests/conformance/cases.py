"""Every public layer, metric, loss and model, described once.

`test_conformance.py` runs each case through every property. A public class without a case
fails the suite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from filling import fill_sequentially

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.layers import (
    GatedRowReader,
    TargetRanks,
    TopWords,
    TwoComponentEmbedding,
    TwoComponentSoftmax,
    WordVectors,
)
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import NDCG, MeanReciprocalRank, Perplexity, RecallAtK
from keras_lightrnn.recurrence import RecurrentStack

# V < R * C, R != C, and no size equal to another.
V, R, C, D, H, B, T = 11, 3, 4, 5, 6, 2, 7


def make_table() -> WordTable:
    return WordTable(Allocation.random(V, R, C, seed=3), name="word_table")


def make_second_table() -> WordTable:
    return WordTable(Allocation.random(V, C, R, seed=4), name="second_table")


def make_tables() -> list[WordTable]:
    return [make_table(), make_second_table()]


def make_windows() -> np.ndarray:
    return np.random.default_rng(0).integers(1, V, size=(B, T + 1)).astype("int32")


def make_half_steps() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(B, 2 * T, H)).astype("float32")


@dataclass(frozen=True)
class Case:
    """One configuration of a public class.

    Attributes:
        public_class: The class.
        make: Makes an object of it, every argument away from its default.
        make_inputs: Makes what it is called with.
        compute: Calls the object, `(object, *inputs) -> tensor`.
        is_layer: Whether it has a call that compiles and a dtype policy.
    """

    public_class: type
    make: Callable[..., Any]
    make_inputs: Callable[[], tuple[np.ndarray, ...]] = lambda: (make_windows(),)
    compute: Callable[..., Any] = lambda layer, *inputs: layer(*inputs)
    is_layer: bool = True

    def prepare(self, instance: Any) -> Any:
        """Build a layer and give its weights sequential numbers."""
        if self.is_layer:
            self.compute(instance, *self.make_inputs())
            is_table = isinstance(instance, WordTable)
            table = instance if is_table else getattr(instance, "word_table", None)
            fill_sequentially(instance, table)
        return instance


def make_tied_softmax(**kwargs: Any) -> TwoComponentSoftmax:
    embedding = TwoComponentEmbedding(make_tables(), H, embeddings_regularizer="l2", **kwargs)
    return TwoComponentSoftmax(embedding.word_tables, tied_embedding=embedding, **kwargs)


def compute_metric(metric: keras.Metric, values: np.ndarray, weights: np.ndarray) -> Any:
    metric.reset_state()
    metric.update_state(values, values, weights)
    return metric.result()


def make_log_probs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return -rng.random((B, T)).astype("float32"), rng.random((B, T)).astype("float32")


def make_ranks() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.integers(1, V, size=(B, T)), rng.random((B, T)).astype("float32")


CASES: dict[str, Case] = {
    "table": Case(WordTable, lambda **kw: make_table()),
    **{
        f"embedding {combine}": Case(
            TwoComponentEmbedding,
            lambda combine=combine, **kw: TwoComponentEmbedding(
                make_table(),
                D,
                combine,
                embeddings_initializer=keras.initializers.RandomNormal(seed=4),
                embeddings_regularizer=keras.regularizers.L2(0.1),
                embeddings_constraint="max_norm",
                mask_zero=True,
                **kw,
            ),
        )
        for combine in ("interleave", "sum", "concat", "gate")
    },
    "embedding of two tables": Case(
        TwoComponentEmbedding,
        lambda **kw: TwoComponentEmbedding(
            make_tables(), D, "gate", mask_zero=True, word_dim=2, **kw
        ),
    ),
    "word vectors": Case(
        WordVectors,
        lambda **kw: WordVectors(
            V - 4, 2, "glorot_uniform", regularizer="l1", constraint="max_norm", **kw
        ),
    ),
    "embedding with shared word vectors": Case(
        TwoComponentEmbedding,
        lambda **kw: TwoComponentEmbedding(
            make_table(), D, "sum", word_vectors=WordVectors(V - 4, 2), **kw
        ),
    ),
    "softmax with shared word vectors": Case(
        TwoComponentSoftmax,
        lambda **kw: TwoComponentSoftmax(
            make_tables(), row_reader="gated", word_vectors=WordVectors(V, 2), **kw
        ),
        make_inputs=lambda: (make_half_steps()[:, ::2], make_windows()[:, 1:]),
    ),
    "softmax with the vectors of an embedding": Case(
        TwoComponentSoftmax,
        lambda **kw: make_tied_softmax(**kw),
        make_inputs=lambda: (make_half_steps()[:, ::2], make_windows()[:, 1:]),
    ),
    "row reader": Case(
        GatedRowReader,
        lambda **kw: GatedRowReader(R, use_shift=False, **kw),
        make_inputs=lambda: (make_half_steps()[:, ::2, None], make_windows()[:, 1:] % R),
    ),
    "stack": Case(
        RecurrentStack,
        lambda **kw: RecurrentStack(H, 2, "gru", 0.25, "keras", return_state=True, **kw),
        make_inputs=lambda: (make_half_steps(),),
        compute=lambda layer, x: layer(x)[0],
    ),
    "stack without states": Case(
        RecurrentStack,
        lambda **kw: RecurrentStack(H, **kw),
        make_inputs=lambda: (make_half_steps(),),
    ),
    "embedding with word vectors": Case(
        TwoComponentEmbedding,
        lambda **kw: TwoComponentEmbedding(
            make_table(), D, "interleave", word_dim=2, num_word_vectors=V - 4, mask_zero=True, **kw
        ),
    ),
    **{
        f"softmax {word_bias}": Case(
            TwoComponentSoftmax,
            lambda word_bias=word_bias, use_bias=use_bias, **kw: TwoComponentSoftmax(
                make_table(),
                use_bias=use_bias,
                word_bias=word_bias,
                kernel_initializer="he_normal",
                bias_initializer="ones",
                kernel_regularizer="l1",
                bias_regularizer="l2",
                kernel_constraint="max_norm",
                bias_constraint="non_neg",
                row_reader=None,
                **kw,
            ),
            make_inputs=lambda: (make_half_steps(), make_windows()[:, 1:]),
        )
        for word_bias, use_bias in ((None, True), ("counts", False), ("trainable", True))
    },
    **{
        f"softmax of states, {name}": Case(
            TwoComponentSoftmax,
            lambda arguments=arguments, **kw: TwoComponentSoftmax(
                make_tables() if arguments.get("num_components") == 2 else make_table(),
                row_reader="gated",
                mask_zero=True,
                **arguments,
                **kw,
            ),
            make_inputs=lambda: (make_half_steps()[:, ::2], make_windows()[:, 1:]),
        )
        for name, arguments in {
            "one component": {},
            "a mixture": {"num_components": 3, "word_bias": "trainable", "word_dim": 2},
            "two tables": {"num_components": 2, "word_bias": "counts", "word_dim": 2},
        }.items()
    },
    **{
        f"top words, {num_tables} table(s)": Case(
            TopWords,
            lambda num_tables=num_tables, **kw: TopWords(
                TwoComponentSoftmax(
                    make_tables()[:num_tables], row_reader="gated", mask_zero=True, **kw
                ),
                k=3,
            ),
            make_inputs=lambda: (make_half_steps(), make_windows()[:, :2]),
            compute=lambda layer, *inputs: layer(*inputs)[1],
        )
        for num_tables in (1, 2)
    },
    "ranks of targets": Case(
        TargetRanks,
        lambda **kw: TargetRanks(
            TwoComponentSoftmax(make_tables(), row_reader="gated", mask_zero=True, **kw)
        ),
        make_inputs=lambda: (make_half_steps()[:, ::2], make_windows()[:, 1:]),
    ),
    "softmax with word vectors": Case(
        TwoComponentSoftmax,
        lambda **kw: TwoComponentSoftmax(
            make_table(), word_dim=2, num_word_vectors=V - 4, row_reader=None, **kw
        ),
        make_inputs=lambda: (make_half_steps(), make_windows()[:, 1:]),
    ),
    **{
        f"model {recurrence}": Case(
            LightRNNModel,
            lambda recurrence=recurrence, num_layers=num_layers, word_dim=word_dim, **kw: (
                LightRNNModel(
                    make_table(),
                    embedding_dim=D,
                    units=H,
                    num_layers=num_layers,
                    recurrence=recurrence,
                    dropout=0.25,
                    word_bias="trainable",
                    mask_zero=True,
                    word_dim=word_dim,
                    **kw,
                )
            ),
        )
        for recurrence, num_layers, word_dim in (("lstm", 1, 0), ("gru", 1, 2), ("rnn", 2, 0))
    },
    **{
        f"model with a reader, {len(tables)} table(s)": Case(
            LightRNNModel,
            lambda tables=tables, **kw: LightRNNModel(
                [make() for make in tables],
                embedding_dim=D,
                units=H,
                dropout=0.25,
                word_bias="trainable",
                mask_zero=True,
                word_dim=2,
                row_reading="reader",
                num_components=2,
                **kw,
            ),
        )
        for tables in ([make_table], [make_table, make_second_table])
    },
    "model with tied embeddings": Case(
        LightRNNModel,
        lambda **kw: LightRNNModel(make_tables(), H, H, tie_embeddings=True, **kw),
    ),
    "model stateful": Case(
        LightRNNModel,
        lambda **kw: LightRNNModel(make_table(), D, H, recurrence="rnn", stateful=True, **kw),
        compute=lambda model, windows: (
            model.build(windows.shape) if not model.built else model.reset_states(),
            model(windows),
        )[1],
    ),
    **{
        f"metric {kind.__name__}": Case(
            kind,
            lambda kind=kind, **kw: kind(k=4, name="of_ranks"),
            make_inputs=make_ranks,
            compute=compute_metric,
            is_layer=False,
        )
        for kind in (NDCG, MeanReciprocalRank, RecallAtK)
    },
    "perplexity": Case(
        Perplexity,
        lambda **kw: Perplexity(name="word_perplexity"),
        make_inputs=make_log_probs,
        compute=compute_metric,
        is_layer=False,
    ),
    "loss": Case(
        NegativeLogLikelihood,
        lambda **kw: NegativeLogLikelihood(reduction="sum", name="nats"),
        make_inputs=make_log_probs,
        compute=lambda loss, log_probs, weights: loss(log_probs, log_probs, weights),
        is_layer=False,
    ),
}
