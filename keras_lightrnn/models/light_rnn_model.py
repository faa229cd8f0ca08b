"""The LightRNN language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.distribution import (
    check_made_in_scope,
    count_replicas,
    strategy_scope,
)
from keras_lightrnn._internal.inference import compile_inference
from keras_lightrnn._internal.keras_internals import get_mask, set_mask
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import Perplexity
from keras_lightrnn.models.carried_state import CarriedState
from keras_lightrnn.models.multi_worker import MultiWorkerTraining
from keras_lightrnn.models.whole_file_saving import WholeFileSaving
from keras_lightrnn.models.window_checks import check_shape
from keras_lightrnn.models.window_reading import WindowReading
from keras_lightrnn.ops.word_ids import cast_word_ids
from keras_lightrnn.recurrence.stack import is_fused, run_fused
from keras_lightrnn.search import decoding
from keras_lightrnn.table.word_table import get_word_table, serialize_word_table

_RECURRENCES: dict[str, tuple[type[keras.layers.RNN], int]] = {
    # name: layer, number of states
    "lstm": (keras.layers.LSTM, 2),
    "gru": (keras.layers.GRU, 1),
    "rnn": (keras.layers.SimpleRNN, 1),
}


@keras.saving.register_keras_serializable("keras_lightrnn")
class LightRNNModel(WindowReading, MultiWorkerTraining, WholeFileSaving, keras.Model):
    """Recurrent language model over a large vocabulary, with `2 sqrt(V)` vectors for `V` words.

    A window of `T + 1` words becomes `2T` half-steps `c_0 r_1 c_1 r_2 ... c_{T-1} r_T` of one
    recurrence. After the column of word `t - 1` it predicts the row of word `t`; after that row,
    its column.

    Args:
        word_table: `WordTable`, `Allocation`, or integer vocabulary size `V`.
        embedding_dim: Integer `D`, the size of each shared input vector.
        units: Integer `H`, the units of each recurrent layer.
        num_layers: Integer, how many recurrent layers.
        recurrence: `"lstm"`, `"gru"` or `"rnn"`; the same weights serve both half-steps.
        dropout: Float in `[0, 1)`, of the inputs of every recurrent layer and of the last
            one's outputs, never of the recurrence.
        stateful: Boolean, whether a window starts in the state in which the one before it in
            the same place of the batch ended. Needs windows of a fixed batch size. The state
            is zero at the start of every epoch, evaluation and prediction.
        word_bias: `None`, `"counts"` or `"trainable"`, see `TwoComponentSoftmax`. With it,
            call `assign_word_counts` before `fit`.
        mask_zero: Boolean, whether word 0 is padding.
        word_dim: Integer `K`, the size of two small vectors that each word has of its own, one
            at the input and one at the output, beside those that it shares; 0 for none, as
            published. They cost `2 V K` numbers and give most of what the sharing took: see the
            README for figures.
        num_word_vectors: Integer, how many words have them, the first ones: the most frequent
            where ids go by falling frequency. `None` for all.
        recurrence_path: What runs the recurrence in `fit`, `evaluate`, and `score` of many
            batches. `"keras"`: the Keras layers. `"fused"`: the package's own recurrences on the
            same weights, TensorFlow and JAX only. `"auto"`
            (default): on TensorFlow the faster one of the device, which is `"fused"` wherever
            no cuDNN serves the Keras layers; on JAX always `"fused"`. Values and gradients are
            the same.
        **kwargs: `name` and `dtype` (a dtype policy that reaches every layer).

    Call arguments:
        words: Windows of word ids `(B, T + 1)` in `[0, V)`.
        training: Boolean, whether dropout is applied.

    Returns:
        Log-probabilities in nats of the words `1..T` of each window, `(B, T)` float32.

    Example:

    >>> model = LightRNNModel(50, embedding_dim=8, units=8)
    >>> model.compile("adam")
    >>> windows = np.random.default_rng(0).integers(50, size=(64, 6))
    >>> history = model.fit(windows, epochs=2, verbose=0)
    >>> sorted(history.history)
    ['loss', 'perplexity']
    >>> model.score(windows[0]).shape
    (5,)
    >>> words, log_probs = model.next_words([3, 1, 4], k=5)
    >>> words.shape, bool((np.diff(log_probs) <= 0).all())
    ((5,), True)
    >>> model.generate([3, 1, 4], length=7, seed=0).shape
    (7,)

    Reference:
        Li et al., "LightRNN", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893).
    """

    def __init__(
        self,
        word_table: Any,
        embedding_dim: int = 256,
        units: int = 256,
        num_layers: int = 1,
        recurrence: str = "lstm",
        dropout: float = 0.0,
        stateful: bool = False,
        word_bias: str | None = None,
        mask_zero: bool = False,
        word_dim: int = 0,
        num_word_vectors: int | None = None,
        recurrence_path: str = "auto",
        **kwargs: Any,
    ) -> None:
        embedding_dim = check_size("embedding_dim", embedding_dim)
        units = check_size("units", units)
        num_layers = check_size("num_layers", num_layers)
        if recurrence not in _RECURRENCES:
            raise ValueError(
                f"`recurrence` must be one of {sorted(_RECURRENCES)}. Received: "
                f"recurrence={recurrence!r}."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1). Received: dropout={dropout}.")
        self.is_fused = is_fused(recurrence_path, recurrence)
        self._is_in_test_step = False
        super().__init__(**kwargs)
        self.autocast = False  # word ids must never be rounded to a float type
        self.word_table = get_word_table(word_table)
        self.embedding_dim = embedding_dim
        self.units = units
        self.num_layers = num_layers
        self.recurrence = recurrence
        self.dropout = dropout
        self.stateful = stateful
        self.word_bias = word_bias
        self.mask_zero = mask_zero
        self.word_dim = word_dim
        self.num_word_vectors = num_word_vectors
        self.recurrence_path = recurrence_path

        policy = self.dtype_policy  # Keras hands it to no sublayer by itself
        self.embedding = TwoComponentEmbedding(
            self.word_table,
            embedding_dim,
            mask_zero=mask_zero,
            word_dim=word_dim,
            num_word_vectors=num_word_vectors,
            dtype=policy,
            name="embedding",
        )
        layer_class, self.num_states = _RECURRENCES[recurrence]
        self.recurrent_layers = [
            layer_class(
                units,
                return_sequences=True,
                return_state=True,
                dtype=policy,
                name=f"{recurrence}_{index}",
            )
            for index in range(num_layers)
        ]
        for layer in self.recurrent_layers:
            # `tf.train.Checkpoint` sees attributes, and does not look into Keras's lists.
            setattr(self, layer.name, layer)
        self.dropout_layers = [
            keras.layers.Dropout(dropout, dtype=policy, name=f"dropout_{index}")
            for index in range(num_layers + 1)
        ]
        self.softmax = TwoComponentSoftmax(
            self.word_table,
            word_bias=word_bias,
            word_dim=word_dim,
            num_word_vectors=num_word_vectors,
            dtype=policy,
            name="softmax",
        )
        self.carried_state: CarriedState | None = None
        self._inference: dict[Any, Callable[..., Any]] = {}

    def build(self, input_shape: Any = None) -> None:
        with strategy_scope(self):
            self._build_layers(input_shape)

    def _build_layers(self, input_shape: Any) -> None:
        # Everything is built here and not by a first call, because Keras may make that call
        # with the mean of integer batches.
        batch_size = None if input_shape is None else input_shape[0]
        if self.stateful:
            if batch_size is None:
                raise ValueError(
                    "A stateful model needs windows of a fixed batch size. Received: input_shape="
                    f"{input_shape}. Call `model.build((batch_size, sequence_length + 1))`, or "
                    "use a dataset with static shapes, as `token_windows` makes."
                )
            sizes = [[self.units] * self.num_states for _ in self.recurrent_layers]
            self.carried_state = CarriedState(
                batch_size, sizes, dtype=self.dtype_policy, name="carried_state"
            )
        hidden = (None, None, self.units)
        shapes: list[tuple[Any, ...]] = [((None, None),), ((None, None, self.embedding_dim),)]
        shapes += [(hidden,)] * (self.num_layers - 1) + [(hidden, (None, None))]
        layers = [self.embedding, *self.recurrent_layers, self.softmax]
        for layer, layer_shapes in zip(layers, shapes, strict=True):
            if not layer.built:
                layer.build(*layer_shapes)
        self.built = True

    # Training and evaluation.

    def call(self, words: Any, training: bool | None = None) -> Any:
        words = cast_word_ids(words)
        check_shape("A batch", words.shape, f"words.shape={words.shape}")
        initial_states = None
        if self.carried_state is not None:
            words = _check_batch_size(words, self.carried_state)
            initial_states = self.carried_state.read()
        # Elsewhere a model is plain operations, of any shapes, for any runtime.
        is_step = training or self._is_in_test_step
        if is_step and self.is_fused:
            half_steps, states = run_fused(self, words, initial_states, bool(training))
        else:
            half_steps, states = self.run_recurrence(
                self.embedding(words), initial_states, training
            )
        if self.carried_state is not None:
            self.carried_state.write(states)
        return self.softmax(half_steps, words[:, 1:], training=training, fused=is_step)  # (B, T)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        self._is_in_test_step = True
        try:
            return super().test_step(*args, **kwargs)
        finally:
            self._is_in_test_step = False

    def run_recurrence(
        self, half_steps: Any, states: list[list[Any]] | None = None, training: bool | None = None
    ) -> tuple[Any, list[list[Any]]]:
        """Run the recurrent layers over half-steps.

        Args:
            half_steps: `(B, L, D)` input vectors of `L` half-steps.
            states: By layer, its states `(B, H)`; `None` for zeros.
            training: Boolean, whether dropout is applied.

        Returns:
            Hidden half-steps `(B, L, H)`, and the states after the last one.
        """
        mask = get_mask(half_steps)
        new_states = []
        for index, layer in enumerate(self.recurrent_layers):
            half_steps = self.dropout_layers[index](half_steps, training=training)
            initial = None if states is None else states[index]
            half_steps, *state = layer(
                half_steps, initial_state=initial, mask=mask, training=training
            )
            new_states.append(state)
        half_steps = self.dropout_layers[-1](half_steps, training=training)
        return half_steps, new_states

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        batch_size, length = input_shape
        return batch_size, None if length is None else length - 1

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        *,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configure training, as `keras.Model.compile`.

        The loss is the negative log-likelihood in nats a word, and `perplexity` is always
        among the metrics. What is given here replaces the loss and adds to the metrics. The
        `loss` that is shown is a mean of means of batches, as always in Keras: where windows hold
        unequal numbers of words it is only near the log of `perplexity`, which is exact.

        Raises:
            ValueError: for `weighted_metrics` that are no list; for `jit_compile=True` on several
                replicas, which TensorFlow cannot compile; or for an optimizer made outside of the
                scope of the strategy.
        """
        if not isinstance(weighted_metrics, (list, tuple, type(None))):
            raise ValueError(
                "`weighted_metrics` must be a list, to which `perplexity` is added. Received: "
                f"weighted_metrics={weighted_metrics!r}. Give a list of metrics or their names."
            )
        if kwargs.get("jit_compile") is True and count_replicas(self) > 1:
            raise ValueError(
                "TensorFlow cannot compile the step of several replicas as one XLA program. "
                f"Received: jit_compile=True on {count_replicas(self)} replicas. Leave "
                "`jit_compile` at its default."
            )
        check_made_in_scope(self, optimizer)
        with strategy_scope(self):
            super().compile(
                optimizer=optimizer,
                loss=NegativeLogLikelihood() if loss is None else loss,
                weighted_metrics=[Perplexity(), *(weighted_metrics or [])],
                **kwargs,
            )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # What was saved holds the default loss and metric already.
        super().compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        y = x[:, 1:] if y is None else y
        return super().compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        y = x[:, 1:] if y is None else y
        if self.mask_zero:  # the step of JAX returns predictions without their mask
            set_mask(y_pred, self.softmax.compute_mask(None, self.embedding.compute_mask(x)))
        return super().compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def reset_states(self) -> None:
        """Set the carried state of a stateful model to zero."""
        if self.carried_state is not None:
            self.carried_state.reset()

    def assign_word_counts(self, counts: Any) -> None:
        """Set the word bias from the corpus; see `TwoComponentSoftmax.assign_word_counts`."""
        self.softmax.assign_word_counts(counts)

    # Using the trained model. These start from the zero state and leave the carried one alone.

    def score(self, words: Any, batch_size: int = 32) -> np.ndarray:
        """Return the log-probability of every word but the first, given those before it.

        Args:
            words: Word ids `(N,)`, or sequences of one length `(B, N)`, `N >= 2`.
            batch_size: Integer, sequences scored at a time.

        Returns:
            `(N - 1,)` or `(B, N - 1)` float32, in nats. With `mask_zero=True`, that of a word 0,
            which is padding, means nothing.
        """
        return decoding.score(self, words, batch_size)

    def word_log_probs(self, prefix: Any) -> np.ndarray:
        """Return the log-probabilities of all words to follow a prefix, `(V,)` or `(B, V)` float64.

        This takes a half-step for every row; `next_words` finds the best ones with few.
        """
        return decoding.word_log_probs(self, prefix)

    def next_words(self, prefix: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` likeliest words to follow a prefix, exactly, and their log-probabilities.

        Rows are taken in falling order of probability until no further row can hold a better
        word. Of a trained model, a batch of prefixes takes a fifth of the time of its prefixes one
        by one.

        Args:
            prefix: Word ids `(N,)`, or prefixes of one length `(B, N)`, `N >= 1`.
            k: Integer in `[1, V]`.

        Returns:
            Word ids, int32, and log-probabilities in nats, float64, `(k,)` or `(B, k)` each, best
            first; of equal words the lesser ids.
        """
        return decoding.next_words(self, prefix, k)

    def generate(
        self,
        prefix: Any,
        length: int = 20,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """Sample a continuation of each prefix.

        Args:
            prefix: Word ids `(N,)`, or prefixes of one length `(B, N)`, `N >= 1`.
            length: Integer, how many words to sample.
            temperature: Float; log-probabilities are divided by it. 0 takes the best word.
            top_k: Sample among the `k` likeliest words only.
            top_p: Sample among the fewest words that together reach this probability, after
                temperature and `top_k`.
            seed: Integer for the same words again.

        Returns:
            The sampled word ids `(length,)` or `(B, length)`, without the prefix.
        """
        return decoding.generate(self, prefix, length, temperature, top_k, top_p, seed)

    def compile_inference(
        self, function: Callable[..., Any], any_size: bool = True
    ) -> Callable[..., Any]:
        """Return a function of this model compiled for inference, kept from call to call."""
        key = (function, any_size)
        if key not in self._inference:

            def bound(*args: Any) -> Any:
                return function(self, *args)

            self._inference[key] = compile_inference(self, bound, any_size)
        return self._inference[key]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LightRNNModel:
        try:
            is_fused(config.get("recurrence_path", "auto"), config.get("recurrence", "lstm"))
        except ValueError:  # trained on another backend: the weights are the same
            config = {**config, "recurrence_path": "auto"}
        return cls(**config)

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "word_table": serialize_word_table(self.word_table),
            "embedding_dim": self.embedding_dim,
            "units": self.units,
            "num_layers": self.num_layers,
            "recurrence": self.recurrence,
            "dropout": self.dropout,
            "stateful": self.stateful,
            "word_bias": self.word_bias,
            "mask_zero": self.mask_zero,
            "word_dim": self.word_dim,
            "num_word_vectors": self.num_word_vectors,
            "recurrence_path": self.recurrence_path,
        }


def _check_batch_size(words: Any, state: CarriedState) -> Any:
    """Return the windows; of a size that is not known yet, TensorFlow checks it in the step."""
    if words.shape[0] is None and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.ensure_shape(words, (state.share, None))
    if words.shape[0] not in (None, state.share):
        raise state.make_size_error(f"words.shape={tuple(words.shape)}")
    return words
