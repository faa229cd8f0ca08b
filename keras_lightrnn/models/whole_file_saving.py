"""Saving of models in files that are complete or unchanged."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from typing import Any

from keras_lightrnn._internal.files import replace_file, reserve_space


class WholeFileSaving:
    """Mixin with which a model's `save` and `save_weights` never leave an incomplete file.

    A local file is written under a temporary name and renamed, so that an earlier one survives a
    failure.
    """

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Save the whole model, as `keras.Model.save`.

        Raises:
            ValueError: for an HDF5 file, from which Keras could not load the model.
            OSError: if the file cannot be written; an earlier one is unchanged.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"A whole model must be saved as `.keras`. Received: filepath={str(filepath)!r}. "
                "Change the name, or save the weights alone as `.weights.h5` with `save_weights`."
            )
        save = super().save  # type: ignore[misc]
        if overwrite and not kwargs and _is_local(filepath, ".keras"):
            with replace_file(filepath) as temporary:
                save(temporary)
        else:  # Keras asks, or writes several files, or to another place
            save(filepath, overwrite=overwrite, **kwargs)

    def save_weights(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Save the weights, as `keras.Model.save_weights`.

        Raises:
            OSError: if the file cannot be written; an earlier one is unchanged.
        """
        save = super().save_weights  # type: ignore[misc]
        if overwrite and not kwargs and _is_local(filepath, ".weights.h5"):
            optimizer = getattr(self, "optimizer", None)  # Keras has none before `compile`
            weights = list(self.variables)  # type: ignore[attr-defined]
            weights += optimizer.variables if optimizer else []
            with replace_file(filepath) as temporary:
                _save_from_memory(save, temporary, weights)
        else:
            save(filepath, overwrite=overwrite, **kwargs)


class _NamedMemory(io.BytesIO):
    """Memory file with the name that Keras looks for in its argument."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __str__(self) -> str:
        return self.name


def _save_from_memory(save: Callable[..., None], path: str, weights: list[Any]) -> None:
    """Save weights to memory and write that to a file: HDF5 crashes the process on a full disk."""
    memory = _NamedMemory(path)
    # Earlier versions of Keras write to the file of that name.
    reserve_space(path, sum(4 * math.prod(weight.shape) for weight in weights))
    save(memory)
    if memory.getbuffer().nbytes:
        with open(path, "wb") as file:
            file.write(memory.getbuffer())


def _is_local(filepath: Any, suffix: str) -> bool:
    """Return whether a path is one of a local file that Keras accepts."""
    is_path = isinstance(filepath, (str, os.PathLike)) and "://" not in str(filepath)
    return is_path and str(filepath).endswith(suffix)
