"""The LightRNN language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.distribution import (
    check_made_in_scope,
    count_replicas,
    strategy_scope,
)
from keras_lightrnn._internal.frozen_parts import (
    HasParts,
    load_frozen_parts,
    serialize_frozen_parts,
)
from keras_lightrnn._internal.inference import compile_inference
from keras_lightrnn._internal.keras_internals import set_mask
from keras_lightrnn._internal.observed_training import get_step
from keras_lightrnn._internal.typing import Config, Shape, Tensor, WordIds
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.layers.row_reader import serialize_row_reader
from keras_lightrnn.layers.word_vectors import WordVectors, count_word_vectors
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.metrics import Perplexity
from keras_lightrnn.models.carried_state import CarriedState
from keras_lightrnn.models.multi_worker import MultiWorkerTraining
from keras_lightrnn.models.whole_file_saving import WholeFileSaving
from keras_lightrnn.models.window_checks import check_shape
from keras_lightrnn.models.window_reading import WindowReading
from keras_lightrnn.ops.word_ids import cast_word_ids
from keras_lightrnn.recurrence.networks import HalfStepNetwork, WordStepNetwork
from keras_lightrnn.recurrence.stack import RecurrentStack, adapt_path
from keras_lightrnn.search import NeuralCache, decoding, scoring
from keras_lightrnn.search.predictor import Predictor, make_predictor
from keras_lightrnn.table.word_table import get_word_tables, serialize_word_tables

_ROW_READING = {"recurrence": None, "reader": "gated"}  # and the row readers of the softmax


@keras.saving.register_keras_serializable("keras_lightrnn")
class LightRNNModel(HasParts, WindowReading, MultiWorkerTraining, WholeFileSaving, keras.Model):
    """Recurrent language model over a large vocabulary, with `2 sqrt(V)` vectors for `V` words.

    With `row_reading="reader"` (the default) the network takes one step a word: its input
    combines the vectors of the word's row and column, and a `TwoComponentSoftmax` with a row
    reader predicts the next word from its state, as a mixture of `num_components`.

    With `row_reading="recurrence"` it is the published model: a window of `T + 1` words becomes
    `2T` half-steps `c_0 r_1 c_1 r_2 ... c_{T-1} r_T` of one recurrence. After the column of word
    `t - 1` it predicts the row of word `t`; after that row, its column.

    Args:
        word_table: `WordTable`, `Allocation`, or integer vocabulary size `V`; or a list of these
            for several tables, whose components make one mixture. Several tables need
            `row_reading="reader"`.
        embedding_dim: Integer `D`, the size of each shared input vector.
        units: Integer `H`, the units of each recurrent layer.
        num_layers: Integer, how many recurrent layers.
        recurrence: String, `"lstm"`, `"gru"`, `"rnn"` or the name of a registered
            `keras_lightrnn.recurrence.Recurrence`.
        dropout: Float in `[0, 1)`, of the inputs of every recurrent layer and of the last
            one's outputs, never of the recurrence.
        stateful: Boolean, whether a window starts in the final state of the previous window at the
            same index of the batch. Needs windows of a fixed batch size. The state is zero at the
            start of every epoch, evaluation and prediction.
        word_bias: `None`, `"counts"` or `"trainable"`, see `TwoComponentSoftmax`. With a word
            bias, call `assign_word_counts` before `fit`.
        mask_zero: Boolean, whether word 0 is padding.
        word_dim: Integer `K`, the size of the small vector that each word has in addition to the
            shared vectors; 0 for none, as published. They cost `V K` numbers and lower perplexity:
            see `docs/results/language_models.md`.
        num_word_vectors: Integer, the number of words with a vector: the words
            `0 .. num_word_vectors - 1`, which are the most frequent if ids are in descending order
            of frequency. `None` for all.
        recurrence_path: The implementation of the recurrence in `fit`, `evaluate`, and `score` of
            many batches: `"auto"` (default), `"fused"` or `"keras"`, see
            `keras_lightrnn.recurrence.RecurrentStack`.
        row_reading: How a column depends on its row: `"reader"` (default) by a
            `layers.GatedRowReader`, `"recurrence"` by a half-step of the network, as published; or
            a layer to use as row reader.
        num_components: Integer `M`, the number of components of the mixture for each table, see
            `TwoComponentSoftmax`. More than one needs `row_reading="reader"`.
        gate_dim: Integer, the number of entries of a column that a row gates at the input, a
            multiple of 8, see `TwoComponentEmbedding`. `None` for about `embedding_dim`. A smaller
            number makes the model smaller. Needs `row_reading="reader"`.
        tie_word_vectors: Boolean, whether input and output share the small vector of a word, a
            `layers.WordVectors`, which gives the lower perplexity. With `False` a word has two.
            Defaults to `True`.
        tie_embeddings: Boolean, whether rows and columns have the same vectors at input and output.
            The model has fewer parameters at about the same perplexity, see
            `docs/results/language_models.md`. Needs `embedding_dim=units`. Defaults to `False`, as
            published.
        **kwargs: `name`, `trainable` and `dtype`, a dtype policy. The last two reach every layer,
            except a row reader that is given as a layer.

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
        row_reading: Any = "reader",
        num_components: int = 1,
        gate_dim: int | None = None,
        tie_word_vectors: bool = True,
        tie_embeddings: bool = False,
        **kwargs: Any,
    ) -> None:
        embedding_dim = check_size("embedding_dim", embedding_dim)
        if isinstance(row_reading, str):
            if row_reading not in _ROW_READING:
                raise ValueError(
                    f"`row_reading` must be one of {tuple(_ROW_READING)} or a row reader, which is "
                    f"a layer. Received: row_reading={row_reading!r}."
                )
            row_reader: Any = _ROW_READING[row_reading]
        else:
            row_reader = row_reading
        num_components = check_size("num_components", num_components)
        num_tables = len(word_table) if isinstance(word_table, (list, tuple)) else 1
        if num_components * num_tables > 1 and row_reader is None:
            raise ValueError(
                "A mixture needs a row reader, which lets each component read the row. Received: "
                f"num_components={num_components}, {num_tables} word table(s), "
                'row_reading="recurrence". Give row_reading="reader".'
            )
        if gate_dim is not None and row_reader is None:
            raise ValueError(
                "`gate_dim` needs a network with one step a word. Received: "
                f'gate_dim={gate_dim}, row_reading="recurrence". Leave it at None.'
            )
        if tie_embeddings and embedding_dim != units:
            raise ValueError(
                "`tie_embeddings` needs `embedding_dim` and `units` of one size. Received: "
                f"embedding_dim={embedding_dim}, units={units}."
            )
        super().__init__(**kwargs)
        self.autocast = False  # word ids must never be rounded to a float type
        self.word_tables = get_word_tables(word_table)
        self.word_table = self.word_tables[0]
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
        self.num_components = num_components
        self.gate_dim = gate_dim
        self.tie_word_vectors = tie_word_vectors
        self.tie_embeddings = tie_embeddings
        has_reader = row_reader is not None

        # Keras hands these to no sublayer by itself.
        of_all: dict[str, Any] = {"dtype": self.dtype_policy, "trainable": self.trainable}
        of_words: dict[str, Any] = {"word_dim": word_dim, "num_word_vectors": num_word_vectors}
        if word_dim and tie_word_vectors:
            size = self.word_table.vocabulary_size
            num_words = count_word_vectors(word_dim, num_word_vectors, size)
            vectors = WordVectors(num_words, word_dim, name="word_vectors", **of_all)
            of_words = {"word_vectors": vectors}
        self.embedding = TwoComponentEmbedding(
            self.word_tables,
            embedding_dim,
            combine="gate" if has_reader else "interleave",
            # Kernels need larger values at first than inputs do.
            embeddings_initializer="glorot_uniform" if tie_embeddings else "uniform",
            mask_zero=mask_zero,
            **of_words,
            gate_dim=gate_dim,
            name="embedding",
            **of_all,
        )
        stack = RecurrentStack(
            units,
            num_layers,
            recurrence,
            dropout,
            recurrence_path,
            return_state=True,
            name="recurrent_stack",
            **of_all,
        )
        # The layers are attributes of the model too: weights files and checkpoints name them by
        # these paths.
        self.recurrent_layers = stack.recurrent_layers
        for layer in stack.recurrent_layers:
            setattr(self, layer.name, layer)
        self.dropout_layers = stack.dropout_layers
        self.recurrent_stack = stack
        self.softmax = TwoComponentSoftmax(
            self.word_tables,
            word_bias=word_bias,
            **of_words,
            row_reader=row_reader,
            num_components=num_components,
            mask_zero=mask_zero,
            tied_embedding=self.embedding if tie_embeddings else None,
            name="softmax",
            **of_all,
        )
        # Not the layer, which is the softmax's and would have a second path in weights files.
        self._row_reading = row_reading if isinstance(row_reading, str) else None
        self.carried_state: CarriedState | None = None
        network = WordStepNetwork if has_reader else HalfStepNetwork
        self._predictor = make_predictor(
            network(self.embedding, stack), self.softmax, self._compile_inference
        )

    def _get_parts(self) -> dict[str, keras.layers.Layer]:
        # The softmax may hold the embedding.
        names = "softmax", "embedding", "recurrent_stack"
        return {name: getattr(self, name) for name in names}

    @property
    def row_reading(self) -> Any:
        """How a column depends on its row: a name or a row reader, as it was given."""
        return self._row_reading or self.softmax.row_reader

    def build(self, input_shape: Shape = None) -> None:
        with strategy_scope(self):
            self._build_layers(input_shape)

    def _build_layers(self, input_shape: Shape) -> None:
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
            sizes = self.recurrent_stack.state_sizes
            self.carried_state = CarriedState(
                batch_size, sizes, dtype=self.dtype_policy, name="carried_state"
            )
        if not self.embedding.built:
            self.embedding.build((None, None))
        self.recurrent_stack.build_layers(self.embedding_dim)
        self.recurrent_stack.built = True
        if not self.softmax.built:
            self.softmax.build((None, None, self.units), (None, None))
        self.built = True

    # Training and evaluation.

    def call(self, words: WordIds, training: bool | None = None) -> Tensor:
        words = cast_word_ids(words)
        check_shape("A batch", words.shape, f"words.shape={words.shape}")
        initial_states = None
        if self.carried_state is not None:
            words = _check_batch_size(words, self.carried_state)
            initial_states = self.carried_state.read()
        # Elsewhere a model is plain operations, of any shapes, for any runtime.
        is_step = training or get_step() is not None
        states, last = self._predictor.network.run_windows(
            words,
            initial_states,
            training,
            fused=bool(is_step) and self.recurrent_stack.is_fused,
            jit_compile=bool(self.jit_compile),
        )
        if self.carried_state is not None:
            self.carried_state.write(last)
        return self.softmax(states, words[:, 1:], training=training, fused=is_step)  # (B, T)

    def compute_output_shape(self, input_shape: Shape) -> tuple[int | None, ...]:
        batch_size, length = input_shape
        return batch_size, None if length is None else length - 1

    def compute_output_spec(
        self, words: WordIds, training: bool | None = None
    ) -> keras.KerasTensor:
        check_shape("A batch", words.shape, f"words.shape={words.shape}")
        return keras.KerasTensor(self.compute_output_shape(words.shape), "float32")

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        *,
        weighted_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configure training, as `keras.Model.compile`.

        The default loss is the negative log-likelihood in nats a word. The metrics always include
        `perplexity`, and `weighted_metrics` adds others. As always in Keras, the reported `loss` is
        a mean over batches: if windows have unequal numbers of words, it only approximates the log
        of `perplexity`, which is exact.

        Raises:
            ValueError: if `weighted_metrics` is not a list; for `jit_compile=True` on several
                replicas, which TensorFlow cannot compile; or for an optimizer made outside of the
                scope of the strategy.
        """
        if not isinstance(weighted_metrics, (list, tuple, type(None))):
            raise ValueError(
                "`weighted_metrics` must be a list, to which `perplexity` is added. Received: "
                f"weighted_metrics={weighted_metrics!r}. Give a list of metrics or their names."
            )
        if not self._can_compile_step(kwargs.get("jit_compile")):
            raise ValueError(
                "TensorFlow cannot compile the step of several replicas as one XLA program. "
                f"Received: jit_compile=True on {count_replicas(self)} replicas. Leave "
                "`jit_compile` at its default."
            )
        check_made_in_scope(self, optimizer)
        with strategy_scope(self):
            self._compile(
                optimizer=optimizer,
                loss=NegativeLogLikelihood() if loss is None else loss,
                weighted_metrics=[Perplexity(), *(weighted_metrics or [])],
                **kwargs,
            )

    def _can_compile_step(self, jit_compile: Any) -> bool:
        return jit_compile is not True or count_replicas(self) == 1

    def _compile(self, jit_compile: Any = "auto", **kwargs: Any) -> None:
        self._given_jit_compile = jit_compile
        super().compile(jit_compile=jit_compile, **kwargs)

    def get_compile_config(self) -> Config:
        config = super().get_compile_config()
        # Keras has what "auto" is on this machine, which another one must find out again.
        return {**config, "jit_compile": self._given_jit_compile} if config else config

    def compile_from_config(self, config: Config) -> None:
        # What was saved holds the default loss and metric already.
        config = keras.saving.deserialize_keras_object(config)
        if not self._can_compile_step(config.get("jit_compile")):  # the one that saved it could
            config = {**config, "jit_compile": "auto"}
        self._compile(**config)
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        # TensorFlow traces a step twice if it makes variables, and Keras leaves those of the
        # optimizer to the first step, except under a strategy.
        if self.built and count_replicas(self) == 1 and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        y = x[:, 1:] if y is None else y
        return super().compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )

    def compute_metrics(
        self, x: Tensor, y: Tensor, y_pred: Tensor, sample_weight: Tensor = None
    ) -> Any:
        y = x[:, 1:] if y is None else y
        if self.mask_zero:  # the step of JAX returns predictions without their mask
            is_word = ops.not_equal(x, 0)
            set_mask(y_pred, ops.logical_and(is_word[:, :-1], is_word[:, 1:]))
        return super().compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def reset_states(self) -> None:
        """Set the carried state of a stateful model to zero."""
        if self.carried_state is not None:
            self.carried_state.reset()

    def assign_word_counts(self, counts: Any) -> None:
        """Set the word bias from the corpus; see `TwoComponentSoftmax.assign_word_counts`."""
        self.softmax.assign_word_counts(counts)

    # Using the trained model. These start from the zero state and leave the carried one alone.

    def score(
        self, words: WordIds, batch_size: int = 32, cache: NeuralCache | None = None
    ) -> np.ndarray:
        """Return the log-probability of every word but the first, given those before it.

        Args:
            words: Word ids `(N,)`, or sequences of one length `(B, N)`, `N >= 2`.
            batch_size: Integer, the number of sequences that are scored at a time. Defaults to 32.
            cache: `keras_lightrnn.search.NeuralCache`, which makes the words of a sequence likelier
                later in it. Then a sequence may be a whole text. Defaults to `None`.

        Returns:
            `(N - 1,)` or `(B, N - 1)` float32, in nats. With `mask_zero=True`, the values for
            padding (word 0) have no meaning.
        """
        return scoring.score(self._get_predictor(), words, batch_size, cache)

    def word_log_probs(
        self, prefix: WordIds, mask: Tensor = None, cache: NeuralCache | None = None
    ) -> np.ndarray:
        """Return the log-probabilities of all next words, `(V,)` or `(B, V)` float64.

        This reads every row; `next_words` reads only a few to find the best words.

        Args:
            prefix: As in `next_words`.
            mask: As in `next_words`.
            cache: As in `next_words`.
        """
        return scoring.word_log_probs(self._get_predictor(), prefix, mask, cache)

    def next_words(
        self,
        prefix: WordIds,
        k: int = 10,
        mask: Tensor = None,
        excluded: WordIds | None = None,
        cache: NeuralCache | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact `k` likeliest next words and their log-probabilities.

        Rows are expanded in descending order of probability, until no remaining row can hold a
        better word. With a trained model, a batch of prefixes takes a fifth of the time of separate
        calls.

        Args:
            prefix: Word ids `(N,)` or `(B, N)`, or a list of `B` texts of unequal lengths. With
                `mask_zero`, word 0 is padding, and a prefix of only padding is the start of a text.
            k: Integer in `[1, V]`. Defaults to 10.
            mask: Boolean, of the shape of `prefix`, false for padding, which may be at any position
                and changes nothing. Defaults to `None`.
            excluded: Integers, words that are not returned, -1 for none: `(E,)` for all prefixes,
                or `(B, E)`. Defaults to `None`.
            cache: `keras_lightrnn.search.NeuralCache`, which makes the words of a prefix likelier.
                Defaults to `None`.

        Returns:
            Word ids, int32, and log-probabilities in nats, float64, `(k,)` or `(B, k)` each, best
            first; ties go to the smaller id.
        """
        return scoring.next_words(self._get_predictor(), prefix, k, mask, excluded, cache)

    def generate(
        self,
        prefix: WordIds,
        length: int = 20,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        *,
        end_word: int | None = None,
        num_beams: int | None = None,
        length_penalty: float = 1.0,
        num_return: int | None = None,
        repetition_penalty: float = 1.0,
        excluded: WordIds | None = None,
        mask: Tensor = None,
        return_log_probs: bool = False,
    ) -> Any:
        """Continue each prefix: by sampling, or by beam search with `num_beams`.

        Args:
            prefix: As in `next_words`.
            mask: As in `next_words`.
            length, temperature, top_k, top_p, seed, end_word, num_beams: As in
                `keras_lightrnn.search.generate`, which continues texts with any network.
            length_penalty, num_return, repetition_penalty, excluded, return_log_probs: As in
                `keras_lightrnn.search.generate`.

        Returns:
            The word ids without the prefix, int32, `(length,)` or `(B, length)`; with
            `num_return=n`, `(n, length)` or `(B, n, length)`. With `return_log_probs` also the
            log-probability of each continuation in nats.

        Raises:
            ValueError: if an argument is out of range, or two arguments are incompatible.
        """
        options = decoding.Options(
            length=length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            end_word=end_word,
            num_beams=num_beams,
            length_penalty=length_penalty,
            num_return=num_return,
            repetition_penalty=repetition_penalty,
            return_log_probs=return_log_probs,
        )
        return decoding.decode(self._get_predictor(), prefix, options, excluded=excluded, mask=mask)

    def _get_predictor(self) -> Predictor:
        """Return the predictor of a model that is built, or build it."""
        if not self.built:
            if self.stateful:
                raise ValueError(
                    "A stateful model must be built, by `fit` or `model.build((batch_size, "
                    "sequence_length + 1))`, before it is used. Received: a model that is not "
                    "built."
                )
            self.build((None, None))
        return self._predictor

    def _compile_inference(
        self, function: Callable[..., Any], any_size: bool
    ) -> Callable[..., Any]:
        return compile_inference(self, function, any_size)

    @classmethod
    def from_config(cls, config: Config) -> LightRNNModel:
        # The configs of earlier versions have neither argument.
        config = {"row_reading": "recurrence", "tie_word_vectors": False, **config}
        return load_frozen_parts(cls, adapt_path(config))

    def get_config(self) -> Config:
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "word_table": serialize_word_tables(self.word_tables),
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
            "row_reading": self._row_reading or serialize_row_reader(self.softmax.row_reader),
            "num_components": self.num_components,
            "gate_dim": self.gate_dim,
            "tie_word_vectors": self.tie_word_vectors,
            "tie_embeddings": self.tie_embeddings,
            **serialize_frozen_parts(self),
        }


def _check_batch_size(words: Tensor, state: CarriedState) -> Tensor:
    """Return the windows; of a size that is not known yet, TensorFlow checks it in the step."""
    if words.shape[0] is None and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.ensure_shape(words, (state.share, None))
    if words.shape[0] not in (None, state.share):
        raise state.make_size_error(f"words.shape={tuple(words.shape)}")
    return words
