"""What the README and the documents say is executed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON_BLOCKS = [
    pytest.param(code, id=f"{path.name}-{index}")
    for path in DOCUMENTS
    for index, code in enumerate(
        re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    )
]
SHELL_BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", PYTHON_BLOCKS)
def test_python_code_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "document", "exec"), {"__name__": "document"})


def test_there_are_two_set_up_commands():
    assert [path.name for path in DOCUMENTS] == [
        "README.md",
        "scaling.md",
        "serving.md",
        "solvers.md",
    ]
    assert len(PYTHON_BLOCKS) == 8
    assert len(SHELL_BLOCKS) == 2
    assert "examples/train_language_model.py" in SHELL_BLOCKS[0]


def test_continuous_integration_runs_the_readme_test_command():
    commands = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands[-1] == SHELL_BLOCKS[1].strip()
