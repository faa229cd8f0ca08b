"""Names of types in signatures.

The tensors of the backends have no common class. These names tell the reader what an argument is;
a type checker takes them for `Any`.
"""

from __future__ import annotations

from typing import Any

Tensor = Any  # of the Keras backend, or a `KerasTensor`
WordIds = Any  # integers, an array or a tensor
Cache = Any  # a tensor, or a nested structure of tensors
Shape = Any  # a tuple or list of `int | None`
Dtype = Any  # a name, or `None` for the default
Initializer = Any  # an object, a name or a config, as for every Keras layer
Regularizer = Any
Constraint = Any
Config = dict[str, Any]  # of `get_config`
Logs = dict[str, Any] | None  # of a callback
