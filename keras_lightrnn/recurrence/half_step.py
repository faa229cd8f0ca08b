"""One half-step of the recurrent layers, from states that many half-steps may follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras import ops

from keras_lightrnn.recurrence.fused import run_step

if TYPE_CHECKING:
    from keras_lightrnn.models.light_rnn_model import LightRNNModel


def multiply_states(model: LightRNNModel, states: Any) -> list[Any]:
    """Return what states add to the gates of the next half-step, whatever it reads.

    Args:
        model: The model, built.
        states: By layer, its states `(n, H)`.

    Returns:
        By layer, `(n, 4H)`; of a GRU `(n, 3H)`, of a simple recurrence `(n, H)`.
    """
    products = []
    for layer, of_layer in zip(model.recurrent_layers, states, strict=True):
        _, recurrent_bias = _get_biases(layer)
        product = _multiply(layer, of_layer[0], layer.cell.recurrent_kernel)
        products.append(product if recurrent_bias is None else product + recurrent_bias)
    return products


def run_half_step(model: LightRNNModel, vectors: Any, states: Any, products: Any) -> list[Any]:
    """Return the states after one half-step.

    Args:
        model: The model, built.
        vectors: `(n, D)`, what is read.
        states: By layer, its states `(n, H)`.
        products: What `multiply_states` returned of them.
    """
    new_states = []
    for layer, of_layer, product in zip(model.recurrent_layers, states, products, strict=True):
        bias, _ = _get_biases(layer)
        inputs = _multiply(layer, vectors, layer.cell.kernel) + bias
        of_layer = [ops.cast(state, "float32") for state in of_layer]
        of_layer = run_step(model.recurrence, inputs, product, of_layer)
        new_states.append([ops.cast(state, layer.compute_dtype) for state in of_layer])
        vectors = new_states[-1][0]
    return new_states


def _multiply(layer: Any, x: Any, kernel: Any) -> Any:
    # Outside of XLA TensorFlow has no product of low precision with float32 sums.
    x, kernel = (ops.cast(y, layer.compute_dtype) for y in (x, kernel))
    return ops.cast(ops.matmul(x, kernel), "float32")


def _get_biases(layer: Any) -> tuple[Any, Any]:
    """Return what is added to the products of the inputs and, or `None`, of the states."""
    bias = ops.cast(layer.cell.bias, "float32")
    return (bias[0], bias[1]) if len(bias.shape) == 2 else (bias, None)
