"""MkDocs hook: generate a page of the API reference for each public module, from its `__all__`."""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).parents[2] / "keras_lightrnn"
# The top module re-exports three classes; the rest of its names are modules.
MODULES = {
    "keras_lightrnn": PACKAGE / "__init__.py",
    "losses": PACKAGE / "losses.py",
    **{
        name: PACKAGE / name / "__init__.py"
        for name in (
            "assignment",
            "callbacks",
            "clustering",
            "data",
            "datasets",
            "layers",
            "metrics",
            "models",
            "ops",
            "reallocation",
            "recurrence",
            "search",
            "serving",
            "visualization",
        )
    },
}


def list_public_names(tree: ast.Module) -> list[str]:
    """Return the names in `__all__`."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [name for name in ast.literal_eval(node.value) if name not in MODULES]
    return []


def make_page(name: str, path: Path) -> str:
    """Return the Markdown of the page of a module; the empty string without public names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = list_public_names(tree)
    if not names:
        return ""
    module = name if name == "keras_lightrnn" else f"keras_lightrnn.{name}"
    parts = [f"# {module}", ast.get_docstring(tree) or ""]
    if name == "models":  # stands on the first page
        names.remove("LightRNNModel")
        parts.append("[`LightRNNModel`](keras_lightrnn.md) is described with the top module.")
    return "\n\n".join(parts + [f"::: {module}.{public}" for public in names]) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    (section,) = (entry for entry in config.nav if "API reference" in entry)
    section["API reference"] = [
        {name: f"api/{name}.md"} for name, path in MODULES.items() if make_page(name, path)
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for name, path in MODULES.items():
        page = make_page(name, path)
        if page:
            files.append(File.generated(config, f"api/{name}.md", content=page))
    return files
