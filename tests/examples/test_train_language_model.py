from __future__ import annotations

import gzip
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from scripts import ROOT, load_script, make_environment, run_python

from keras_lightrnn import Allocation
from keras_lightrnn.data import Vocabulary

NAME = "examples/train_language_model.py"


@pytest.fixture(scope="module")
def example():
    return load_script(NAME)


@pytest.fixture
def text(tmp_path):
    """Three files of sentences in which every word but the first follows from the one before."""
    rng = np.random.default_rng(0)
    paths = []
    for name, num_lines in (("train.txt.gz", 400), ("valid.txt", 40), ("test.txt", 40)):
        lines = "".join(
            " ".join(f"w{(start + step) % 20}" for step in range(8)) + "\n"
            for start in rng.integers(20, size=num_lines)
        )
        path = tmp_path / name
        open_file = gzip.open if name.endswith(".gz") else open
        with open_file(path, "wt", encoding="utf-8") as file:
            file.write(lines)
        paths.append(str(path))
    return paths


def test_trains_evaluates_samples_and_saves(example, text, tmp_path, capsys):
    output = tmp_path / "out"
    result = example.main(
        ["--text", *text, "--units", "16", "--epochs", "6", "--learning-rate", "0.02"]
        + ["--batch-size", "4", "--sequence-length", "9", "--output", str(output)]
    )
    printed = capsys.readouterr().out
    assert result["test_perplexity"] < 0.5 * result["unigram_perplexity"]
    for part in ("val_perplexity", "test perplexity", "full-softmax", "continuations", "rows of"):
        assert part in printed
    vocabulary = Vocabulary.load(output / "vocabulary.txt")
    model = keras.saving.load_model(output / "model.keras")
    assert model.word_table.allocation == Allocation.load(output / "allocation.npz")
    assert model.word_table.vocabulary_size == len(vocabulary)
    page = (output / "table.html").read_text("utf-8")
    assert "<svg" in page
    assert '"w19"' in page
    # What was trained was saved: w4 follows w3.
    words, _ = model.next_words(vocabulary.encode("w2 w3")[:-1], k=3)
    assert "w4" in [vocabulary.words[word] for word in words]


@pytest.mark.slow
def test_trains_on_several_devices(text, tmp_path):
    # In a process of its own: a device that TensorFlow has used cannot be divided.
    command = [sys.executable, str(ROOT / NAME), "--text", *text, "--units", "16", "--epochs", "2"]
    command += ["--batch-size", "4", "--sequence-length", "9", "--output", str(tmp_path / "out")]
    command += ["--devices", "CPU:0", "CPU:1"]
    printed = subprocess.run(
        command,
        env=make_environment(CUDA_VISIBLE_DEVICES="-1"),
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    ).stdout
    perplexity, unigram = re.search(r"perplexity ([\d.]+) \(unigram ([\d.]+)\)", printed).groups()
    assert float(perplexity) < 0.5 * float(unigram)
    keras.saving.load_model(tmp_path / "out" / "model.keras")


def run_in_shell(*options, **variables):
    """Run the example as the README does; return what it writes to both streams."""
    variables = {"TF_CPP_MIN_LOG_LEVEL": "", **variables}
    environment = {name: x for name, x in make_environment(**variables).items() if x}
    process = run_python(ROOT / NAME, *options, environment=environment, timeout=600)
    return process.stdout, process.stderr


def test_prints_its_own_lines_only(text, tmp_path):
    options = ["--text", *text, "--units", "4", "--epochs", "1", "--batch-size", "4"]
    printed, noise = run_in_shell(*options, "--output", str(tmp_path / "out"))
    assert noise == ""
    assert printed.startswith("text: 3,600 training")


def test_shows_the_notes_of_tensorflow_on_demand():
    _, noise = run_in_shell("--help", TF_CPP_MIN_LOG_LEVEL="0")
    assert "oneDNN" in noise or "cpu_feature_guard" in noise


def test_an_import_that_fails_shows_what_was_written(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'I0000 00:00:17.1 1 a.cc:1] note\\nreason\\n')\nimport missing_\n"
    )
    environment = make_environment(PYTHONPATH=str(tmp_path))
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    process = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "quiet_start.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("reason\n")
    assert "No module named 'missing_'" in process.stderr


@pytest.mark.slow
def test_prepares_the_default_text_quietly(tmp_path):
    options = ["--max-words", "2000", "--units", "4", "--epochs", "1"]
    printed, noise = run_in_shell(
        *options, "--output", str(tmp_path / "out"), TFDS_DATA_DIR=str(tmp_path / "data")
    )
    assert [line for line in noise.splitlines() if "TFDS prepares it now" not in line] == []
    assert "Saved to" in printed


def test_help_documents_every_option(example, capsys):
    with pytest.raises(SystemExit) as exit_info:
        example.main(["--help"])
    assert exit_info.value.code == 0
    printed = capsys.readouterr().out
    for option in (
        "--dataset",
        "--text",
        "--units",
        "--layers",
        "--epochs",
        "--recurrence",
        "--devices",
    ):
        assert option in printed
    assert "--output" in printed


def test_missing_text_file(example, tmp_path):
    missing = str(tmp_path / "missing.txt")
    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        example.main(["--text", missing, missing, missing, "--output", str(tmp_path)])


def test_text_may_come_from_pipes(example, text):
    expected, _ = example.read_text(example.make_parser().parse_args(["--text", *text]))
    pipes = [subprocess.Popen(["cat", path], stdout=subprocess.PIPE) for path in text]
    paths = [f"/dev/fd/{pipe.stdout.fileno()}" for pipe in pipes]
    words, vocabulary = example.read_text(example.make_parser().parse_args(["--text", *paths]))
    for pipe in pipes:
        pipe.communicate()
    assert len(vocabulary) == 22
    for got, want in zip(words, expected, strict=True):
        assert np.array_equal(got, want)


def test_reallocates_after_the_first_epoch(example, text, tmp_path, capsys):
    example.main(
        ["--text", *text, "--units", "8", "--epochs", "2", "--batch-size", "4"]
        + ["--sequence-length", "9", "--allocation", "random", "--reallocate", "similarity"]
        + ["--recurrence", "gru", "--output", str(tmp_path / "out")]
    )
    assert capsys.readouterr().out.count("reallocation round") == 1
    assert keras.saving.load_model(tmp_path / "out" / "model.keras").recurrence == "gru"


def test_no_epochs(example, capsys):
    with pytest.raises(SystemExit):
        example.main(["--epochs", "0"])
    assert "--epochs: must be at least 1, and is 0" in capsys.readouterr().err
