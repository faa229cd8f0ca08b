"""Private names of Keras and TensorFlow that the package cannot avoid, each with its reason."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras

# Masks: there is no public way to read the mask of a tensor on every backend, because JAX arrays
# take no attributes.
from keras.src.backend import get_keras_mask, set_keras_mask

# Shared objects: Keras recognises an object that several configs of a file hold by its memory
# address, and fails for a layer in the config of another layer. A stable identifier needs the
# same maps. They exist while a model is saved to or loaded from a `.keras` file.
from keras.src.backend.common.global_state import get_global_attribute

# Stateless functions: Keras has a public scope, and no public way to ask whether one is open.
from keras.src.backend.common.stateless_scope import in_stateless_scope


def get_mask(x: Any) -> Any:
    """Return the mask that `x` carries, or `None`.

    Example:

    >>> from keras import ops
    >>> x = ops.ones((2, 1))
    >>> get_mask(x) is None
    True
    >>> set_mask(x, ops.convert_to_tensor([True, False]))
    >>> ops.convert_to_numpy(get_mask(x)).tolist()
    [True, False]
    """
    return get_keras_mask(x)


def set_mask(x: Any, mask: Any) -> None:
    """Attach a mask to `x`."""
    set_keras_mask(x, mask)


def set_untracked(layer: keras.Layer, name: str, value: Any) -> None:
    """Set an attribute of a layer to what belongs to another layer.

    Keras neither saves it nor counts it among the weights of this layer.

    Example:

    >>> layer = keras.layers.Identity()
    >>> set_untracked(layer, "table", keras.Variable([1.0]))
    >>> layer.variables
    []
    """
    object.__setattr__(layer, name, value)


def untrack(layer: keras.Layer, variable: keras.Variable) -> None:
    """Remove a variable of a layer from those that Keras counts and saves.

    Example:

    >>> layer = keras.layers.Layer()
    >>> layer.total = keras.Variable([1.0])
    >>> untrack(layer, layer.total)
    >>> layer.weights
    []
    """
    layer._untrack_variable(variable)


@contextlib.contextmanager
def unlock(layer: keras.Layer) -> Iterator[None]:
    """Let a layer that is built take further variables and layers, as Keras does for LoRA.

    Example:

    >>> layer = keras.layers.Dense(1)
    >>> layer.build((None, 2))
    >>> with unlock(layer):
    ...     layer.total = keras.Variable([1.0])
    >>> len(layer.weights)
    3
    """
    layer._tracker.unlock()
    try:
        yield
    finally:
        if layer.built:
            layer._tracker.lock()


def has_value(variable: keras.Variable) -> bool:
    """Return whether a variable holds its value. While `fit` runs on JAX, the trainer holds it."""
    return variable._value is not None


def check_has_value(variable: keras.Variable) -> None:
    """Raise `RuntimeError` if a variable cannot be read, because the trainer holds its value.

    Keras would raise "'NoneType' object is not callable".

    Example:

    >>> check_has_value(keras.Variable([1.0]))
    """
    # A stateless scope has the values, and a variable that was never read an initializer.
    if has_value(variable) or in_stateless_scope() or variable._initializer is not None:
        return
    raise RuntimeError(
        "A model can be read only while its variables hold their values. Received: the variable "
        f"{variable.path!r} without its value. On JAX, a running `fit` holds the values elsewhere. "
        "In a callback read `self.model`, which puts them back, and no other name of the model."
    )


class RestoredVariable(keras.Variable):
    """Variable that is told when `tf.train.Checkpoint` restores it, which does not `assign` it."""

    def on_restore(self) -> None:
        """React to the restored value."""

    def _restore_from_tensors(self, tensors: Any) -> Any:
        restored = super()._restore_from_tensors(tensors)
        self.on_restore()
        return restored


def set_direction(metric: keras.metrics.Metric, direction: str) -> None:
    """Tell callbacks such as `EarlyStopping` whether `"up"` or `"down"` is better for a metric.

    Keras guesses it from the name of the metric otherwise.
    """
    metric._direction = direction


def track_for_checkpoints(layer: keras.Layer, name: str) -> None:
    """Show `tf.train.Checkpoint` the layers in a list, an attribute of a layer.

    It does not look into Keras's lists. The added names come after that of the list, in which Keras
    still finds the layers when it saves weights. On other backends nothing is added, because
    PyTorch would list the weights once more.

    Example:

    >>> layer = keras.layers.Layer()
    >>> layer.parts = [keras.layers.Dense(1), keras.layers.Dense(2)]
    >>> track_for_checkpoints(layer, "parts")
    >>> layer.parts_1 is layer.parts[1]
    True
    """
    if keras.backend.backend() == "tensorflow":
        for index, part in enumerate(getattr(layer, name)):
            setattr(layer, f"{name}_{index}", part)


def get_shared_objects() -> dict[Any, Any] | None:
    """Return the objects of the file that is being saved or loaded, by identifier.

    Returns:
        A dictionary that lives as long as the operation; `None` outside of one, where objects
        cannot be recognised.

    Example:

    >>> get_shared_objects() is None
    True
    """
    return get_global_attribute("shared_objects/id_to_obj_map")


def list_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a model or layer and all layers in it, at any depth.

    `model.layers` has the outermost ones only, and not those that a layer got after it was built.
    """
    return list(model._flatten_layers())


def call_takes_training(model: keras.Model) -> bool:
    """Return whether a model hands `training` to its layers. Only Keras's own flag says so."""
    return bool(getattr(model, "_call_has_training_arg", True))


def build_from_batch(model: keras.Model, batch: Any) -> None:
    """Build a model, its loss and its metrics from one batch, without a training step.

    Keras has no public way to build metrics alone.
    """
    model._symbolic_build(data_batch=batch)


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Make a running `fit` start at an epoch, as Keras's `BackupAndRestore` does.

    Args:
        model: The model that is being fitted.
        epoch: Integer from 0, or `None` for what `fit` was given.
    """
    model._initial_epoch = epoch


def peek_model(callback: keras.callbacks.Callback) -> Any:
    """Return the model of a callback, or `None`, and leave its state where it is.

    On JAX the public property `callback.model` copies the training state back to the variables.
    """
    return callback._model


def find_callback_list(callback: keras.callbacks.Callback) -> list[keras.callbacks.Callback]:
    """Return the callbacks of the `CallbackList` that is calling `callback`, itself included.

    Keras does not tell a callback which others there are. Called by something else, such as a
    custom training loop, it is alone.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and callback in caller.callbacks:
            return list(caller.callbacks)
        frame = frame.f_back
    return [callback]


def get_replica_resource(variable: keras.Variable) -> Any:
    """Return the TensorFlow variable behind a Keras variable, on the replica that asks.

    A variable of a strategy that is summed when it is read has no scatter operations; its component
    on the replica has them, and no public method returns that.
    """
    resource = variable.value
    get_component = getattr(resource, "_get_on_device_or_primary", None)
    return resource if get_component is None else get_component()


class FirstBatchBuild:
    """Mixin of a model that chooses the batch which `fit` and `evaluate` build it from.

    Keras reads that batch in a private method, and offers no public one to override.
    """

    def build_from_iterator(self, iterator: Any) -> bool:
        """Build the model from an iterator over epochs, or return `False` to let Keras do it."""
        return False

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if iterator is None or not self.build_from_iterator(iterator):
            super()._maybe_symbolic_build(iterator, data_batch)  # type: ignore[misc]


def is_watched_by_tensorflow() -> bool:
    """Return whether TensorFlow watches every operation, which XLA cannot compile.

    `tf.debugging.enable_check_numerics` and `enable_dump_debug_info` add operations to every graph.
    TensorFlow has no public way to ask for these.

    Example:

    >>> is_watched_by_tensorflow()
    False
    """
    from tensorflow.python.eager import context

    return bool(context.context().op_callbacks)


def is_compiled_by_xla() -> bool:
    """Return whether the TensorFlow function that is traced now is compiled by XLA.

    Some operations take other arguments there. TensorFlow has no public way to ask for this.

    Example:

    >>> is_compiled_by_xla()
    False
    """
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

    graph = tf.compat.v1.get_default_graph()
    return bool(control_flow_util.GraphOrParentsInXlaContext(graph))
