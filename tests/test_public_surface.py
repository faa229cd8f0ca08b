"""The public names, written by hand, and the way that imports go."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
from modules import PACKAGE, list_modules

SURFACE = {
    "keras_lightrnn": [
        "Allocation",
        "LightRNNModel",
        "WordTable",
        "assignment",
        "callbacks",
        "clustering",
        "data",
        "datasets",
        "layers",
        "losses",
        "metrics",
        "models",
        "ops",
        "reallocation",
        "recurrence",
        "search",
        "serving",
        "visualization",
    ],
    "keras_lightrnn.assignment": [
        "AlternatingSolver",
        "AssignmentProblem",
        "AssignmentSolution",
        "AssignmentSolver",
        "AssignmentStatus",
        "AuctionSolver",
        "ExactSolver",
        "GreedySolver",
        "get",
    ],
    "keras_lightrnn.callbacks": ["HalfStepStatistics", "ReallocationCallback", "TrainingBackup"],
    "keras_lightrnn.clustering": [
        "cluster_features",
        "cluster_words",
        "compute_unexplained_share",
        "compute_word_features",
    ],
    "keras_lightrnn.data": [
        "TokenShards",
        "Vocabulary",
        "contiguous_windows",
        "from_tfds",
        "read_lines",
        "shuffled_windows",
        "tfds_lines",
        "token_windows",
    ],
    "keras_lightrnn.datasets": ["PythonDocstrings"],
    "keras_lightrnn.layers": [
        "GatedRowReader",
        "TargetRanks",
        "TopWords",
        "TwoComponentEmbedding",
        "TwoComponentSoftmax",
        "WordVectors",
    ],
    "keras_lightrnn.losses": ["NegativeLogLikelihood"],
    "keras_lightrnn.metrics": ["NDCG", "MeanReciprocalRank", "Perplexity", "RecallAtK"],
    "keras_lightrnn.models": [
        "LightRNNModel",
        "MultiWorkerTraining",
        "ObservedTraining",
        "check_causal",
    ],
    "keras_lightrnn.ops": [
        "EMPTY_CELL_LOGIT",
        "BiasTerm",
        "LogitTerm",
        "VectorTerm",
        "cast_word_ids",
        "compute_bias_table",
        "compute_fused_log_probs",
        "compute_row_offsets",
        "compute_word_log_probs",
        "interleave_components",
        "invert_cells",
        "look_up_word_vectors",
        "mark_invalid_ids",
        "split_half_steps",
    ],
    "keras_lightrnn.reallocation": [
        "LikelihoodObjective",
        "OutputWeights",
        "Proposal",
        "ProposalStatus",
        "ReallocationObjective",
        "SimilarityObjective",
        "get",
    ],
    "keras_lightrnn.recurrence": [
        "Recurrence",
        "RecurrentStack",
        "get_recurrence",
        "register_recurrence",
    ],
    "keras_lightrnn.search": ["NeuralCache", "StepNetwork", "generate"],
    "keras_lightrnn.serving": ["ServingLimits", "export_litert", "export_saved_model"],
    "keras_lightrnn.visualization": ["export_table_image", "export_table_page"],
}


@pytest.mark.parametrize("name", list(SURFACE))
def test_public_names(name):
    module = importlib.import_module(name)
    assert module.__all__ == SURFACE[name]


@pytest.mark.parametrize("name", list_modules())
def test_public_names_exist(name):
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    for public in names:
        assert getattr(module, public) is not None


# What each room may import when it is imported itself.
MAY_IMPORT: dict[str, set[str]] = {
    "_internal": set(),
    "assignment": {"_internal", "table"},
    "callbacks": {"_internal", "layers", "losses", "ops", "reallocation", "table"},
    "clustering": {"_internal", "assignment", "table"},
    "data": {"_internal"},
    "datasets": set(),
    "layers": {"_internal", "clustering", "ops", "search", "table"},
    "losses": {"_internal", "ops"},
    "metrics": {"_internal", "ops"},
    "models": {"_internal", "layers", "losses", "metrics", "ops", "recurrence", "search", "table"},
    "ops": {"_internal"},
    "reallocation": {"_internal", "assignment", "clustering", "table"},
    "recurrence": {"_internal", "ops"},
    "search": {"_internal", "ops", "recurrence"},
    "serving": {"_internal", "data", "layers", "models", "ops", "search", "table"},
    "table": {"_internal", "ops"},
    "visualization": {"_internal", "table"},
}


def list_imports(body: list[ast.stmt]) -> list[str]:
    """Return the modules that running `body` imports, as dotted names."""
    names = []
    for node in body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.For, ast.While, ast.ClassDef)):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                names += list_imports(node.orelse)
                continue
            names += list_imports(node.body)
            names += list_imports(getattr(node, "orelse", []))
            names += list_imports(getattr(node, "finalbody", []))
            for handler in getattr(node, "handlers", []):
                names += list_imports(handler.body)
    return names


def list_imported_parts(name: str) -> set[str]:
    """Return the other parts of the package that a module imports."""
    path = PACKAGE.parent / Path(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    dotted = [x.split(".") for x in list_imports(ast.parse(path.read_text("utf-8")).body)]
    return {x[1] for x in dotted if x[0] == "keras_lightrnn"} - {name.split(".")[1]}


MODULES = [name for name in list_modules() if "." in name]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name):
    part = name.split(".")[1]
    assert part in MAY_IMPORT, "a new part of the package needs its place in the layers"
    assert list_imported_parts(name) <= MAY_IMPORT[part]


def test_what_may_be_imported_is():
    imported: dict[str, set[str]] = {part: set() for part in MAY_IMPORT}
    for name in MODULES:
        imported[name.split(".")[1]] |= list_imported_parts(name)
    assert imported == MAY_IMPORT


def list_all_imported_parts(name: str) -> set[str]:
    """Return the other parts that a module imports anywhere, for typing and in functions too."""
    path = PACKAGE.parent / Path(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    dotted = list_imports(
        [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    )
    parts = [x.split(".") for x in dotted]
    return {x[1] for x in parts if x[0] == "keras_lightrnn"} - {name.split(".")[1]}


def test_no_import_circle_even_in_functions_and_for_typing():
    imported: dict[str, set[str]] = {}
    for name in MODULES:
        imported.setdefault(name.split(".")[1], set()).update(list_all_imported_parts(name))
    while imported:
        free = {part for part, others in imported.items() if not others & set(imported)}
        assert free, f"a circle among {sorted(imported)}"
        imported = {part: others for part, others in imported.items() if part not in free}


@pytest.mark.parametrize(
    "name",
    [
        "_internal/checks",
        "_internal/files",
        "assignment",
        "clustering",
        "data",
        "reallocation",
        "table/allocation",
        "visualization",
    ],
)
def test_what_needs_no_keras_imports_none(name):
    path = PACKAGE / name
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    for file in files:
        roots = {x.partition(".")[0] for x in list_imports(ast.parse(file.read_text("utf-8")).body)}
        assert not roots & {"keras", "tensorflow", "jax", "torch"}, file.name


def test_layering_walk_sees_what_it_should():
    source = (
        "import a.b\nfrom keras_lightrnn import models\nif TYPE_CHECKING:\n    import c\n"
        "try:\n    import d\nexcept ImportError:\n    import e\ndef f():\n    import g\n"
    )
    assert list_imports(ast.parse(source).body) == ["a.b", "keras_lightrnn.models", "d", "e"]
