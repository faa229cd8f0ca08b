"""Train and test steps that show their sample weights to observers, and their functions."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import keras

# Of the current step. `MirroredStrategy` runs the step of each replica in another thread.
_sample_weight: ContextVar[Any] = ContextVar("sample_weight", default=None)


def get_shown_weight() -> Any:
    """Return the sample weights of the step that is running, or `None`."""
    return _sample_weight.get()


class ShownStep:
    """The train or test step of a model while it shows its sample weights to observers.

    Keras passes them to losses and metrics only, and a model of the user need not have a class of
    this package. Several users share one such step.

    Args:
        model: The Keras model. Its function of that step must be made again.
        name: `"train_step"` or `"test_step"`.
    """

    def __init__(self, model: keras.Model, name: str) -> None:
        self.model, self.name = model, name
        self.num_users = 0
        self.own = model.__dict__.get(name)  # an attribute that replaces the method of the class
        self.step = getattr(model, name)
        self.renew()

    @classmethod
    def use(cls, model: keras.Model, name: str) -> ShownStep:
        """Return the shown step of a model, made if it has none."""
        runner = getattr(getattr(model, name), "__self__", None)
        step = runner.shown_step if isinstance(runner, _Runner) else cls(model, name)
        step.num_users += 1
        return step

    def renew(self) -> None:
        """Let the next function of the step be traced, also by JAX.

        JAX keeps traces by function: a step that is the same function as before would observe what
        it observed then.
        """
        setattr(self.model, self.name, _Runner(self).run)

    def undo(self) -> None:
        """Undo `use`. The last `undo` restores the model's own step."""
        self.num_users -= 1
        if self.num_users:
            return
        if self.own is None:
            delattr(self.model, self.name)
        else:
            setattr(self.model, self.name, self.own)


class _Runner:
    """Runs a shown step. Each runner is another function for JAX."""

    def __init__(self, shown_step: ShownStep) -> None:
        self.shown_step = shown_step

    def run(self, *args: Any, **kwargs: Any) -> Any:
        data = kwargs["data"] if "data" in kwargs else args[-1]
        _, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        weights = keras.tree.flatten(sample_weight)
        # Of several outputs it is not known which one is that of the words.
        token = _sample_weight.set(weights[0] if len(weights) == 1 else None)
        try:
            return self.shown_step.step(*args, **kwargs)
        finally:
            _sample_weight.reset(token)


class StepFunctions:
    """The compiled train functions, or test functions, of a model, by what sums in them.

    A function is traced with the observers that sum at that time, and another set of them needs
    another function. TensorFlow does not release the memory of a function that is dropped, so
    functions are kept while they can be used again: the one without sums as long as the model, the
    others as long as their observers.

    Args:
        name: `"train_function"` or `"test_function"`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # By pairs of an observer and the index of the table that it observes.
        self.functions: dict[frozenset[tuple[int, int]], Callable[..., Any]] = {}
        self.summing: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of(cls, model: keras.Model, name: str) -> StepFunctions:
        """Return those of a model."""
        # Not by `setattr`, which Keras tracks, nor in a table, which would keep the model alive.
        return model.__dict__.setdefault(f"_keras_lightrnn_{name}s", cls(name))

    def switch(self, model: keras.Model, observer: Any, is_summing: bool, table: int = 0) -> None:
        """Select the function in which an observer of a table sums, or does not.

        The model is left without a function if none was kept; Keras makes it.
        """
        current = getattr(model, self.name)
        if not self.summing and current is not self.functions.get(self.summing):
            self.functions.clear()  # the model has been compiled again
        if current is not None:
            self.functions[self.summing] = current
        change = {(id(observer), table)}
        self.summing = self.summing | change if is_summing else self.summing - change
        setattr(model, self.name, self.functions.get(self.summing))

    def forget(self, observer: Any) -> None:
        """Drop the functions in which an observer sums."""
        for key in list(self.functions):
            if any(number == id(observer) for number, _ in key):
                del self.functions[key]
