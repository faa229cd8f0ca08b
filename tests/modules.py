"""The modules of the package, for the tests that look at all of them."""

from __future__ import annotations

from pathlib import Path

import keras_lightrnn

PACKAGE = Path(keras_lightrnn.__file__).parent


def list_modules() -> list[str]:
    """Return the dotted names of all modules of the package."""
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names
