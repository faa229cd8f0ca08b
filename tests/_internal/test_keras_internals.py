"""Private names of Keras and TensorFlow stand in one file."""

from __future__ import annotations

import ast

import keras
import pytest
from modules import PACKAGE

from keras_lightrnn import LightRNNModel
from keras_lightrnn._internal.keras_internals import find_callback_list, list_layers

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "keras_internals.py")
# Methods of named tuples that are public.
PUBLIC = {"_asdict", "_replace"}


def list_private_names(tree: ast.AST) -> set[str]:
    """Return the private names that are read of objects, by attribute or by `getattr`."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("attr"):
            names |= {x.value for x in node.args if isinstance(x, ast.Constant)}
    names = {x for x in names if isinstance(x, str) and x.startswith("_") and x[:2] != "__"}
    return names - PUBLIC


def list_defined_names(tree: ast.AST) -> set[str]:
    """Return the names of functions, variables and attributes that a module defines."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if getattr(node.value, "id", None) == "self":
                names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def parse(path):
    return ast.parse(path.read_text("utf-8"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_private_names_of_keras_elsewhere(path):
    tree = parse(path)
    # A private name of the package is used in its folder only.
    own = set().union(*(list_defined_names(parse(other)) for other in path.parent.rglob("*.py")))
    if path.parent.name == "_internal":
        own -= list_defined_names(parse(path.parent / "keras_internals.py"))
    assert list_private_names(tree) <= own
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [
        x.name for node in ast.walk(tree) if isinstance(node, ast.Import) for x in node.names
    ]
    assert not [name for name in modules if name.startswith(("keras.src", "tensorflow.python"))]


def test_the_walk_sees_what_it_should():
    source = "class A:\n    def _b(self): self._c = super()._d + getattr(x, '_e')\ny._f = 1\n"
    assert list_private_names(ast.parse(source)) == {"_c", "_d", "_e", "_f"}
    assert list_defined_names(ast.parse(source)) == {"A", "_b", "_c"}


def test_layers_at_any_depth():
    model = LightRNNModel(9, 2, 2)
    layers = list_layers(model)
    assert layers[0] is model
    assert {id(model.embedding), id(model.softmax), id(model.word_table)} <= set(map(id, layers))


class Look(keras.callbacks.Callback):
    def set_model(self, model):
        self.found = find_callback_list(self)


def test_callbacks_see_their_list():
    first, second = Look(), Look()
    callbacks = keras.callbacks.CallbackList([first, second], model=keras.Sequential())
    assert first.found == second.found == callbacks.callbacks
    first.set_model(None)
    assert first.found == [first]
