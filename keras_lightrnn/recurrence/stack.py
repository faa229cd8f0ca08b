"""The recurrent layers of a model: cells, dropout, and the choice of what runs them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_lightrnn._internal.checks import check_size
from keras_lightrnn._internal.frozen_parts import (
    HasParts,
    load_frozen_parts,
    serialize_frozen_parts,
)
from keras_lightrnn._internal.keras_internals import track_for_checkpoints
from keras_lightrnn._internal.threads import count_cores
from keras_lightrnn._internal.typing import Config, Shape, Tensor
from keras_lightrnn.recurrence.fused import (
    ProductSums,
    multiply_table,
    run_recurrence,
    split_bias,
)
from keras_lightrnn.recurrence.kinds import Recurrence, get_recurrence

RECURRENCE_PATHS = ("auto", "fused", "keras")
_FUSED_BACKENDS = ("tensorflow", "jax")
# Smaller ones are not divided: a product reads its whole matrix, however few rows it is for.
_LEAST_BATCH = 16


@keras.saving.register_keras_serializable("keras_lightrnn")
class RecurrentStack(HasParts, keras.layers.Layer):
    """Recurrent layers over a sequence, with dropout between them.

    A faster substitute for `keras.layers.LSTM(H, return_sequences=True)` and for stacks of it. The
    Keras layers hold the weights and are used for saving and search. In training, the package's own
    recurrence runs on the same weights where that is faster. Values and gradients are the same. The
    package's recurrence keeps its states in float32 under every dtype policy. The stack reads
    forwards only: `keras.layers.Bidirectional` does not take it.

    Args:
        units: Integer `H`, the units of each layer.
        num_layers: Integer, how many layers.
        recurrence: String, the name of a `Recurrence`: `"lstm"`, `"gru"`, `"rnn"` or one that
            `register_recurrence` was given.
        dropout: Float in `[0, 1)`, of the inputs of every layer and of the last one's outputs,
            never of the recurrence.
        recurrence_path: What runs the layers in training. `"keras"`: the Keras layers.
            `"fused"`: the package's recurrence, TensorFlow and JAX only. `"auto"` (default): on
            TensorFlow the faster one of the device, which is `"fused"` wherever no cuDNN serves
            the Keras layers; on JAX `"fused"`; on PyTorch `"keras"`.
        return_state: Boolean, whether to return the last states, too. Defaults to `False`.
        **kwargs: `name`, `dtype`, `trainable` as in every Keras layer.

    Call arguments:
        x: `(B, L, D)`.
        initial_state: By layer, its states `(B, H)`; `None` for zeros. For one layer also its
            states alone, as `keras.layers.LSTM` takes them.
        mask: `(B, L)` boolean, false where states are carried over; or `None`.
        training: Boolean, whether this is a training step, in which dropout is applied.
        fused: Boolean, whether the package's recurrence runs where `recurrence_path` allows it.
            XLA compiles it for each shape. Defaults to `training`.

    Returns:
        Hidden states `(B, L, H)`. With `return_state`, these and the last states by layer.

    Raises:
        ValueError: for an unknown recurrence or path, an argument out of range, inputs without
            three axes, or initial states that are not those of the layers.

    Example:

    >>> model = keras.Sequential([keras.Input((None, 4)), RecurrentStack(6), keras.layers.Dense(2)])
    >>> model.output_shape
    (None, None, 2)
    >>> stack = RecurrentStack(units=6, num_layers=2, recurrence="gru", return_state=True)
    >>> hidden, states = stack(ops.ones((3, 5, 4)))
    >>> tuple(hidden.shape), [tuple(state.shape) for state in states[1]]
    ((3, 5, 6), [(3, 6)])
    """

    def __init__(
        self,
        units: int,
        num_layers: int = 1,
        recurrence: str = "lstm",
        dropout: float = 0.0,
        recurrence_path: str = "auto",
        return_state: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = check_size("units", units)
        self.num_layers = check_size("num_layers", num_layers)
        self.kind = get_recurrence(recurrence)
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must lie in [0, 1). Received: dropout={dropout}.")
        self.recurrence = recurrence
        self.dropout = dropout
        self.recurrence_path = recurrence_path
        self.return_state = return_state
        self.is_fused = is_fused(recurrence_path, self.kind)
        self.recurrent_layers = [
            self.kind.make_layer(
                units,
                return_sequences=True,
                return_state=True,
                dtype=self.dtype_policy,
                name=f"{recurrence}_{index}",
            )
            for index in range(num_layers)
        ]
        if not self.trainable:
            for layer in self.recurrent_layers:
                layer.trainable = False  # as an argument it would not reach every kind of cell
        self.dropout_layers = [
            keras.layers.Dropout(dropout, dtype=self.dtype_policy, name=f"dropout_{index}")
            for index in range(num_layers + 1)
        ]
        for name in ("recurrent_layers", "dropout_layers"):
            track_for_checkpoints(self, name)

    def _get_parts(self) -> dict[str, keras.layers.Layer]:
        return {layer.name: layer for layer in self.recurrent_layers}

    @property
    def state_sizes(self) -> list[list[int]]:
        """By layer, the sizes of its states."""
        return [[self.units] * self.kind.num_states for _ in self.recurrent_layers]

    def build(self, x_shape: Shape) -> None:
        if len(x_shape) != 3 or x_shape[-1] is None:
            raise ValueError(
                "The inputs of a recurrent stack must be (B, L, D), with a known D. Received: "
                f"x.shape={tuple(x_shape)}."
            )
        self.build_layers(x_shape[-1])
        self.built = True

    def make_zero_states(self, inputs: Tensor) -> list[list[Tensor]]:
        """Return states of zeros, float32, for the batch of some inputs `(B, ...)`."""
        zeros = ops.zeros((ops.shape(inputs)[0], self.units), "float32")
        return [[zeros] * len(sizes) for sizes in self.state_sizes]

    def build_layers(self, input_dim: int) -> None:
        """Build the recurrent layers. A model calls it outside the scope of this layer's name."""
        for index, layer in enumerate(self.recurrent_layers):
            if not layer.built:
                layer.build((None, None, self.units if index else input_dim))

    def call(
        self,
        x: Tensor,
        initial_state: Tensor = None,
        mask: Tensor = None,
        training: bool | None = None,
        fused: bool | None = None,
    ) -> Any:
        if initial_state is not None:
            initial_state = self._nest(initial_state)
            self._check_states(initial_state)
        if self.is_fused and (training if fused is None else fused):
            # Whether XLA compiles the step around it is not known here.
            num_parts = choose_num_parts(x.shape[0], jit_compile=False)
            hidden, states = self.run_fused(x, initial_state, mask, training, num_parts=num_parts)
            states = keras.tree.map_structure(lambda y: ops.cast(y, self.compute_dtype), states)
        else:
            hidden, states = self._run_keras_layers(x, initial_state, mask, training)
        return (hidden, states) if self.return_state else hidden

    def _nest(self, states: Tensor) -> Tensor:
        """Return states by layer, also where those of the only layer are given alone."""
        if not isinstance(states, (list, tuple)):
            states = [states]
        is_flat = not any(isinstance(state, (list, tuple)) for state in states)
        return [list(states)] if self.num_layers == 1 and is_flat else states

    def _check_states(self, states: Tensor) -> None:
        sizes = self.state_sizes
        is_right = len(states) == len(sizes) and all(
            isinstance(of_layer, (list, tuple))
            and [tuple(state.shape)[1:] for state in of_layer] == [(size,) for size in of_sizes]
            for of_layer, of_sizes in zip(states, sizes, strict=True)
        )
        if not is_right:
            shapes = keras.tree.map_structure(lambda y: tuple(y.shape), states)
            raise ValueError(
                f"The initial states of this stack must be {len(sizes)} list(s), one for each "
                f"layer, of {self.kind.num_states} state(s) (B, {self.units}). Received: "
                f"{shapes}. Give the states that the stack returns."
            )

    def _run_keras_layers(
        self, x: Tensor, states: Tensor, mask: Tensor, training: bool | None
    ) -> tuple[Tensor, list[list[Tensor]]]:
        new_states = []
        for index, layer in enumerate(self.recurrent_layers):
            x = self.dropout_layers[index](x, training=training)
            initial = None if states is None else states[index]
            x, *state = layer(x, initial_state=initial, mask=mask, training=training)
            new_states.append(state)
        return self.dropout_layers[-1](x, training=training), new_states

    def run_fused(
        self,
        x: Tensor,
        states: Tensor = None,
        mask: Tensor = None,
        training: bool | None = None,
        indices: Tensor = None,
        added: tuple[Tensor, Tensor] = (None, None),
        num_parts: int = 1,
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Return the hidden states and the last states by the package's recurrence.

        Args:
            x: `(B, L, D)`; with `indices`, a table of vectors `(K, D)`, which has no dropout.
            states: As `initial_state` in `call`.
            mask: As in `call`.
            training: As in `call`.
            indices: `(B, L, n)` int32, which vectors of the table add up at each step; or `None`.
            added: Vectors `(B, L, K)` and a matrix `(K, D)`: their product is added to the
                inputs. Only with `indices`.
            num_parts: Integer. The batch is divided into so many parts, each a program that
                TensorFlow runs at the same time as the others. A loop uses one core except in its
                products; two parts use two. XLA, inside a step that it compiles, runs them in
                turn.
        """
        if states is None:
            states = self.make_zero_states(x if indices is None else indices)
        weights = [self._cast_weights(layer) for layer in self.recurrent_layers]
        if indices is None:
            x = self.dropout_layers[0](x, training=training)
        else:
            vectors, matrix = added
            table = multiply_table(x, weights[0], indices.shape[-1])
            kernel = None if matrix is None else ops.matmul(matrix, weights[0][0])
            x = ProductSums(table, indices, vectors, kernel)
        if num_parts == 1:
            hidden, new_states = self._run_layers(x, states, mask, weights, training)
        else:
            parts = []
            for part in range(num_parts):
                batch_size = ops.shape(states[0][0])[0]
                here = slice(batch_size * part // num_parts, batch_size * (part + 1) // num_parts)
                x_here, states_here, mask_here = (_take_part(y, here) for y in (x, states, mask))
                parts.append(self._run_layers(x_here, states_here, mask_here, weights, training))
            hidden, new_states = keras.tree.map_structure(lambda *x: ops.concatenate(x), *parts)
        return self.dropout_layers[-1](hidden, training=training), new_states

    def _run_layers(
        self,
        x: Tensor | ProductSums,
        states: Tensor,
        mask: Tensor,
        weights: list[list[Tensor]],
        training: bool | None,
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Return the hidden states `(B, L, H)` of the last layer and the last states of all."""
        new_states = []
        for index, (of_layer, first) in enumerate(zip(weights, states, strict=True)):
            if index:
                x = self.dropout_layers[index](x, training=training)
            first = [ops.cast(state, "float32") for state in first]
            x, last = run_recurrence(self.kind, x, of_layer, first, mask)
            x = ops.cast(x, self.compute_dtype)
            new_states.append(last)
        return x, new_states

    def _cast_weights(self, layer: keras.layers.RNN) -> list[Tensor]:
        """Return the weights of a recurrent layer in the dtypes that `run_recurrence` expects."""
        cell = layer.cell
        kernels = [ops.cast(x, layer.compute_dtype) for x in (cell.kernel, cell.recurrent_kernel)]
        return [*kernels, ops.cast(cell.bias, "float32")]

    # One step at a time, from states that many steps may follow.

    def run_cells(self, x: Tensor, states: Tensor) -> list[list[Tensor]]:
        """Return the states after one step of the Keras cells, which reads `x`, `(n, D)`."""
        new_states = []
        for layer, of_layer in zip(self.recurrent_layers, states, strict=True):
            x, new = layer.cell(x, list(of_layer), training=False)
            new_states.append(list(new))
        return new_states

    def multiply_states(self, states: Tensor) -> list[Tensor]:
        """Return what states add to the gates of the next step, whatever it reads.

        Args:
            states: By layer, its states `(n, H)`.

        Returns:
            By layer, `(n, G H)` for `G` gates.
        """
        products = []
        for layer, of_layer in zip(self.recurrent_layers, states, strict=True):
            _, recurrent_bias = _get_biases(layer)
            product = _multiply(layer, of_layer[0], layer.cell.recurrent_kernel)
            products.append(product if recurrent_bias is None else product + recurrent_bias)
        return products

    def run_step(self, x: Tensor, states: Tensor, products: Tensor) -> list[Tensor]:
        """Return the states after one step of which the products of the states are known.

        Args:
            x: `(n, D)`, what is read.
            states: By layer, its states `(n, H)`.
            products: What `multiply_states` returned of them.
        """
        new_states = []
        for layer, of_layer, product in zip(self.recurrent_layers, states, products, strict=True):
            bias, _ = _get_biases(layer)
            inputs = _multiply(layer, x, layer.cell.kernel) + bias
            of_layer = [ops.cast(state, "float32") for state in of_layer]
            of_layer = self.kind.run_step(ops, inputs, product, of_layer)
            new_states.append([ops.cast(state, layer.compute_dtype) for state in of_layer])
            x = new_states[-1][0]
        return new_states

    def compute_output_shape(self, x_shape: Shape) -> Any:
        hidden = (*x_shape[:2], self.units)
        if not self.return_state:
            return hidden
        return hidden, [[(x_shape[0], size) for size in sizes] for sizes in self.state_sizes]

    def compute_mask(self, x: Tensor, previous_mask: Tensor = None) -> Tensor:
        if not self.return_state:
            return previous_mask
        return previous_mask, [[None for _ in sizes] for sizes in self.state_sizes]

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "units": self.units,
            "num_layers": self.num_layers,
            "recurrence": self.recurrence,
            "dropout": self.dropout,
            "recurrence_path": self.recurrence_path,
            "return_state": self.return_state,
            **serialize_frozen_parts(self),
        }

    @classmethod
    def from_config(cls, config: Config) -> RecurrentStack:
        return load_frozen_parts(cls, adapt_path(config))


def _take_part(x: Any, here: slice) -> Any:
    """Return a part of a batch of inputs, states or masks."""
    if isinstance(x, ProductSums):
        vectors = _take_part(x.vectors, here)
        return x._replace(indices=_take_part(x.indices, here), vectors=vectors)
    return keras.tree.map_structure(
        lambda y: None if y is None else ops.convert_to_tensor(y)[here], x
    )


def is_fused(recurrence_path: str, kind: Recurrence) -> bool:
    """Return whether training steps run on the package's recurrence.

    Raises:
        ValueError: if the path is unknown, or is `"fused"` and the backend or the recurrence has
            no such path.
    """
    if recurrence_path not in RECURRENCE_PATHS:
        raise ValueError(
            f"`recurrence_path` must be one of {RECURRENCE_PATHS}. Received: recurrence_path="
            f"{recurrence_path!r}."
        )
    backend = keras.backend.backend()
    if recurrence_path == "fused" and backend not in _FUSED_BACKENDS:
        raise ValueError(
            'recurrence_path="fused" needs the TensorFlow or the JAX backend. Received: backend '
            f'{backend!r}. Leave it at "auto", which takes the Keras layers there.'
        )
    if recurrence_path == "fused" and kind.step_gradient is None:
        raise ValueError(
            'recurrence_path="fused" needs a recurrence with a `step_gradient`. Received: '
            f'recurrence={kind.name!r}, which has none. Leave it at "auto".'
        )
    if recurrence_path == "auto" and backend == "tensorflow" and kind.has_cudnn:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):  # there the Keras layers run on cuDNN
            return False
    return recurrence_path != "keras" and _has_fused_path(kind)


def adapt_path(config: Config) -> Config:
    """Return the config of a stack or of a model with a path that this backend has.

    It may come from another backend, and weights are the same on every path.

    Example:

    >>> adapt_path({"recurrence": "gru", "recurrence_path": "keras"})["recurrence_path"]
    'keras'
    """
    if config.get("recurrence_path") != "fused":
        return config
    kind = get_recurrence(config.get("recurrence", "lstm"))
    return config if _has_fused_path(kind) else {**config, "recurrence_path": "auto"}


def _has_fused_path(kind: Recurrence) -> bool:
    return keras.backend.backend() in _FUSED_BACKENDS and kind.step_gradient is not None


def choose_num_parts(batch_size: int | None, jit_compile: bool) -> int:
    """Return into how many parts TensorFlow is to divide a batch, to run them at the same time.

    Measured on two cores, where three or four were slower than two. XLA runs the parts in turn in
    a step that it compiles, and so do GPUs; replicas on one CPU share its cores already.
    """
    if keras.backend.backend() != "tensorflow" or jit_compile:
        return 1
    import tensorflow as tf

    is_busy = tf.distribute.get_strategy().num_replicas_in_sync > 1
    is_small = batch_size is not None and batch_size < _LEAST_BATCH
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    return 1 if is_busy or is_small or has_gpu or count_cores() == 1 else 2


def _multiply(layer: keras.layers.RNN, x: Tensor, kernel: Tensor) -> Tensor:
    # Outside of XLA TensorFlow has no product of low precision with float32 sums.
    x, kernel = (ops.cast(y, layer.compute_dtype) for y in (x, kernel))
    return ops.cast(ops.matmul(x, kernel), "float32")


def _get_biases(layer: keras.layers.RNN) -> tuple[Tensor, Tensor | None]:
    """Return what is added to the products of the inputs and, or `None`, of the states."""
    return split_bias(ops.cast(layer.cell.bias, "float32"))
