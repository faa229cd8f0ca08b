"""The README: its code runs, its links lead somewhere, and CI runs its test command."""

from __future__ import annotations

import re

import pytest
from scripts import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
SHELL_BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]


@pytest.mark.usefixtures("early_slots")
@pytest.mark.parametrize("code", PYTHON_BLOCKS, ids=range(len(PYTHON_BLOCKS)))
def test_python_code_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "document"})


def test_it_is_read_in_a_minute():
    assert README.count("\n") <= 120
    assert len(PYTHON_BLOCKS) == 1


def test_there_are_two_set_up_commands():
    assert len(SHELL_BLOCKS) == 2
    assert "examples/train_language_model.py" in SHELL_BLOCKS[0]


def test_continuous_integration_runs_the_readme_test_command():
    commands = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands[-1] == SHELL_BLOCKS[1].strip()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    missing = [x for x in targets if not x.startswith("http") and not (ROOT / x).exists()]
    assert missing == []
