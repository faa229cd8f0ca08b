"""Training and test steps that publish their sample weights to what runs inside them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import keras

from keras_lightrnn._internal.typing import Tensor


class Step(NamedTuple):
    """A training step or a test step that is running.

    Attributes:
        sample_weight: The sample weights of its batch. `None` if there are none, or several, as
            for a model with several outputs.
    """

    sample_weight: Tensor


# `MirroredStrategy` runs the step of each replica in a separate thread.
_step: ContextVar[Step | None] = ContextVar("step", default=None)
# The losses of the model that has just summed words without knowing their weights.
_losses_without_weights: ContextVar[tuple[Any, ...]] = ContextVar("losses", default=())


def get_step() -> Step | None:
    """Return the running step of a model with `ObservedTraining`, or `None`."""
    return _step.get()


def _publish(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that can be asked for by `get_step` while it runs."""

    @functools.wraps(step)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        data = kwargs["data"] if "data" in kwargs else args[-1]  # JAX gives its state first
        _, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = keras.tree.flatten(sample_weight)
        # Of several outputs it is not known which one is that of the words.
        token = _step.set(Step(weights[0] if len(weights) == 1 else None))
        try:
            return step(self, *args, **kwargs)
        finally:
            _step.reset(token)

    return run


class ObservedTraining:
    """Mixin of a model whose sample weights `ReallocationCallback` must know.

    Keras passes sample weights to losses and metrics, and to no layer. With this mixin, every
    `train_step` and `test_step` of the model, yours included, publishes those of its batch, and
    words count in the sums of a reallocation as often as their weights say. Models without sample
    weights do not need it. `LightRNNModel` and models with `MultiWorkerTraining` have it.

    Example: a functional model that is trained with sample weights.

    >>> class ObservedModel(ObservedTraining, keras.Model):
    ...     pass
    >>> inputs = keras.Input((3,))
    >>> model = ObservedModel(inputs, keras.layers.Dense(1)(inputs))
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A step that does not call that of its base class must publish, too.
        for name in ("train_step", "test_step"):
            if name in vars(cls):
                setattr(cls, name, _publish(vars(cls)[name]))

    @_publish
    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().train_step(*args, **kwargs)  # type: ignore[misc]

    @_publish
    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().test_step(*args, **kwargs)  # type: ignore[misc]


def expect_no_weights(losses: tuple[Any, ...]) -> None:
    """Note that a model without `ObservedTraining` has summed words in its forward pass.

    A training loop may compute another loss, so that the note lasts until the next forward pass.

    Args:
        losses: The losses of the model, which Keras calls after its forward pass. Empty after a
            forward pass that is not summed.
    """
    _losses_without_weights.set(losses)


def check_weights(loss: Any, sample_weight: Tensor) -> None:
    """Raise `ValueError` if a loss is given weights that the sums of this step should have had."""
    if not any(loss is other for other in _losses_without_weights.get()):
        return
    _losses_without_weights.set(())
    if sample_weight is not None:
        raise ValueError(
            "The sums of a reallocation count words by their sample weights, which a model must "
            "publish. Received: sample weights (or `class_weight`), and a model without "
            "`keras_lightrnn.models.ObservedTraining`. Make it as `class ObservedModel("
            "ObservedTraining, keras.Model)`, functional models included."
        )
