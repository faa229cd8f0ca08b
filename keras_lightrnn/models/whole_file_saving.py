"""Saved models that are there whole or not at all."""

from __future__ import annotations

import math
import os
from typing import Any

from keras_lightrnn._internal.files import replace_file, reserve_space


class WholeFileSaving:
    """Mixin with which a model's `save` and `save_weights` never leave half of a file.

    A local file is written under a temporary name and renamed, so that an earlier one survives a
    failure.
    """

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Save the whole model, as `keras.Model.save`.

        Raises:
            ValueError: for a file of HDF5, from which Keras could not load it.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"A whole model is saved as `.keras`. Received: filepath={str(filepath)!r}. Name "
                "it so, or save its weights alone as `.weights.h5` with `save_weights`."
            )
        self._save(super().save, filepath, ".keras", overwrite, kwargs)  # type: ignore[misc]

    def save_weights(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Save the weights, as `keras.Model.save_weights`."""
        save = super().save_weights  # type: ignore[misc]
        self._save(save, filepath, ".weights.h5", overwrite, kwargs)

    def _save(
        self, save: Any, filepath: Any, suffix: str, overwrite: bool, kwargs: dict[str, Any]
    ) -> None:
        is_path = isinstance(filepath, (str, os.PathLike)) and "://" not in str(filepath)
        # Keras refuses other names, in words that speak of the name given.
        is_file = is_path and str(filepath).endswith(suffix)
        if is_file and overwrite and not kwargs:
            with replace_file(filepath) as temporary:
                # HDF5 brings the process down when the disk is full.
                optimizer = getattr(self, "optimizer", None)  # Keras has none before `compile`
                weights = list(self.variables)  # type: ignore[attr-defined]
                weights += optimizer.variables if optimizer else []
                reserve_space(temporary, sum(4 * math.prod(weight.shape) for weight in weights))
                save(temporary)
        else:  # Keras asks, or writes several files, or to another place
            save(filepath, overwrite=overwrite, **kwargs)
