"""The wheel and the source distribution install and run without the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest
from scripts import ROOT

import keras_lightrnn

SOLVE = """
    import sys
    import numpy as np
    import keras_lightrnn
    from keras_lightrnn.assignment import AssignmentProblem, AuctionSolver, ExactSolver

    rng = np.random.default_rng(0)
    problem = AssignmentProblem.from_costs(rng.random((35, 6)), rng.random((35, 6)))
    exact = ExactSolver().solve(problem)
    auction = AuctionSolver(gap_tolerance=1e-6).solve(problem)
    assert auction.primal_cost <= exact.primal_cost + 1e-3, (auction, exact)
    print(keras_lightrnn.__file__)
"""

TRAIN = """
    import keras
    import numpy as np
    from keras_lightrnn import Allocation, LightRNNModel
    from keras_lightrnn.data import Vocabulary, token_windows
    from keras_lightrnn.visualization import export_table_page

    lines = ["the cat sat on the mat", "the dog sat on the log"] * 20
    vocabulary = Vocabulary.from_lines(lines)
    stream = vocabulary.encode_lines(lines)
    allocation = Allocation.from_cooccurrence(stream, len(vocabulary))
    model = LightRNNModel(allocation, embedding_dim=8, units=8)
    model.compile("adam")
    history = model.fit(token_windows(stream, 4, 5), epochs=2, verbose=0)
    assert history.history["loss"][1] < history.history["loss"][0]
    model.save("model.keras")
    loaded = keras.saving.load_model("model.keras")
    np.testing.assert_allclose(loaded.score(stream[:9]), model.score(stream[:9]), rtol=1e-5)
    export_table_page(loaded.word_table, "table.html", vocabulary)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command in a folder, without the variables that would show it the repository."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    process = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-4000:]
    return process.stdout


def make_environment(folder: Path, *requirements: str | Path) -> Path:
    """Make a virtual environment, install requirements with pip, and return its Python."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", *requirements, cwd=folder.parent)
    return python


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> dict[str, Path]:
    """Build the source distribution, and the wheel from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    (source,) = folder.glob("*.tar.gz")
    return {"wheel": wheel, "source": source}


@pytest.mark.slow
def test_distributions_hold_what_they_should(distributions):
    run(
        *(sys.executable, "-m", "twine", "check", "--strict"),
        *distributions.values(),
        cwd=distributions["wheel"].parent,
    )
    in_wheel = zipfile.ZipFile(distributions["wheel"]).namelist()
    assert "keras_lightrnn/py.typed" in in_wheel
    assert "keras_lightrnn/visualization/table_page.html" in in_wheel
    tops = {name.partition("/")[0] for name in in_wheel}
    assert tops == {"keras_lightrnn", f"keras_lightrnn-{keras_lightrnn.__version__}.dist-info"}
    with tarfile.open(distributions["source"]) as file:
        in_source = {name.partition("/")[2] for name in file.getnames()}
    tracked = run("git", "ls-files", cwd=ROOT).splitlines() if (ROOT / ".git").exists() else []
    left_out = [name for name in tracked if not name.startswith(".") and name not in in_source]
    assert left_out == []


@pytest.mark.slow
def test_wheel_trains_in_a_clean_environment(distributions, tmp_path):
    python = make_environment(tmp_path / "clean", distributions["wheel"])
    code = textwrap.dedent(SOLVE) + textwrap.dedent(TRAIN)
    location = run(python, "-I", "-c", code, cwd=tmp_path).splitlines()[0]
    assert location.startswith(str(tmp_path / "clean"))
    assert (tmp_path / "table.html").is_file()


@pytest.mark.slow
def test_solvers_of_the_source_distribution_run_without_tensorflow(distributions, tmp_path):
    python = make_environment(tmp_path / "clean", "numba", "scipy")
    run(
        *(python, "-m", "pip", "install", "--quiet", "--no-deps", distributions["source"]),
        cwd=tmp_path,
    )
    check = """
        assert not {"keras", "tensorflow", "jax", "torch"} & set(sys.modules)
        import importlib.util
        assert importlib.util.find_spec("tensorflow") is None
    """
    code = textwrap.dedent(SOLVE) + textwrap.dedent(check)
    location = run(python, "-I", "-c", code, cwd=tmp_path).splitlines()[0]
    assert location.startswith(str(tmp_path / "clean"))


def test_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [keras_lightrnn.__version__]


def test_changelog_has_a_section_of_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"\n## [{keras_lightrnn.__version__}]" in changelog


def test_extras_say_what_they_are_for():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n\n")[0]
    extras = re.findall(r"(# .*\n)?^(\w+) = \[", section, re.MULTILINE)
    assert {name for _, name in extras} == {
        "cuda",
        "docs",
        "jax",
        "plots",
        "serving",
        "test",
        "torch",
        "translation",
    }
    assert all(comment for comment, _ in extras)


def test_workflow_runs_the_script_of_ci():
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8")
    assert "run: .ci/run" in workflow
