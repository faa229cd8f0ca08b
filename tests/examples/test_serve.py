from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tensorflow as tf
from scripts import load_script

from keras_lightrnn import LightRNNModel
from keras_lightrnn.data import Vocabulary

# A program that is started like `docker` or like the server itself, and says what it is to serve.
PROGRAM = """#!{python}
import json, os, signal, sys

if os.path.basename(sys.argv[0]) == "docker":
    words = sys.argv[1:]
    host, port, _ = words[words.index("-p", words.index("-p") + 1) + 1].split(":")
    volume, target, _ = words[words.index("-v") + 1].split(":")
    name = target.split("/")[-1]
    flags = {{"model_base_path": volume, "model_name": name, "rest_api_port": port}}
    assert host == "127.0.0.1", host
else:
    flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
with open({flags_path!r} + ".new", "w") as file:
    json.dump(flags, file)
os.rename({flags_path!r} + ".new", {flags_path!r})
signal.pause()
"""
# A server that answers every POST alike.
REPLY = """#!{python}
import http.server, json, os, sys

flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, content):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        states = [{{"state": "AVAILABLE"}}]
        self.answer(200, json.dumps({{"model_version_status": states}}).encode())

    def do_POST(self):
        self.answer({status}, {content!r})

with open({pid_path!r}, "w") as file:
    file.write(str(os.getpid()))
http.server.HTTPServer(("127.0.0.1", int(flags["rest_api_port"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def example():
    return load_script("examples/serve.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The files that `train_language_model.py` writes."""
    path = tmp_path_factory.mktemp("trained")
    # A word may hold an escape sequence of terminals, here one that clears the screen.
    vocabulary = Vocabulary(["\x1b[2J", *(f"w{i}" for i in range(7)), "<unk>", "<eos>"])
    vocabulary.save(path / "vocabulary.txt")
    model = LightRNNModel(len(vocabulary), embedding_dim=4, units=4)
    model.build((None, None))
    model.save(path / "model.keras")
    return path, model, vocabulary


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def exported(example, trained, tmp_path_factory):
    """What the example exports, and says, where there is no server."""
    path = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as context:
        context.setenv("PATH", "")
        with pytest.raises(SystemExit) as info:
            run(example, trained, path, port=8501)
    return path / "lm" / "1", str(info.value)


@pytest.fixture
def export_copy(example, exported, monkeypatch):
    """Exporting takes seconds: what was exported once is there again."""
    monkeypatch.setattr(
        example,
        "export_saved_model",
        lambda model, vocabulary, path: shutil.copytree(exported[0], path / "1"),
    )


@pytest.fixture
def program(tmp_path, port):
    """Serves what the program is told to, with as much of the REST protocol as is needed.

    In this process, because a program of its own would import TensorFlow, which takes seconds.
    """
    flags_path = tmp_path / "flags.json"

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, content):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def do_GET(self):
            states = []
            if flags_path.exists():
                flags = json.loads(flags_path.read_text())
                assert self.path == "/v1/models/" + flags["model_name"], self.path
                assert int(flags["rest_api_port"]) == port
                states = [{"version": "1", "state": "AVAILABLE"}]
            self.answer({"model_version_status": states})

        def do_POST(self):
            flags = json.loads(flags_path.read_text())
            assert self.path == "/v1/models/" + flags["model_name"] + ":predict", self.path
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            versions = Path(flags["model_base_path"])
            (version,) = [path for path in versions.iterdir() if path.name.isdecimal()]
            served = tf.saved_model.load(version)
            inputs = {name: tf.constant(value) for name, value in body["inputs"].items()}
            outputs = served.signatures[body["signature_name"]](**inputs)
            outputs = {name: value.numpy().tolist() for name, value in outputs.items()}
            outputs["words"] = [[word.decode() for word in row] for row in outputs["words"]]
            self.answer({"outputs": outputs})

    with http.server.HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield PROGRAM.format(python=sys.executable, flags_path=str(flags_path))
        server.shutdown()
        thread.join()


@pytest.fixture
def export_nothing(example, monkeypatch):
    """Exporting takes seconds, and these tests are about the server only."""
    monkeypatch.setattr(example, "export_saved_model", lambda *_: "nothing")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that makes a program the only one on the PATH."""

    def install_program(name, source):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(source)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))

    return install_program


def run(example, trained, tmp_path, port, *options):
    paths = ["--model", str(trained[0]), "--output", str(tmp_path / "lm")]
    return example.main([*paths, "--text", "w1 w2", "--rest-port", str(port), *options])


def test_says_what_to_install(exported):
    version, message = exported
    assert re.search(r"docker run (.|\n)*tensorflow-model-server", message)
    assert (version / "saved_model.pb").exists()


def test_the_command_that_it_prints_is_one_for_a_shell(example, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    args = example.make_parser().parse_args(["--output", str(tmp_path / "the models" / "it's")])
    with pytest.raises(SystemExit) as info:
        example.make_server_command(args)
    line = next(line for line in str(info.value).splitlines() if "docker run" in line)
    words = shlex.split(line)
    assert words == example.make_docker_command(args)
    assert words[words.index("-p") + 1] == "127.0.0.1:8500:8500"
    assert words[words.index("-e") + 1] == "MODEL_NAME=it's"
    assert words[-2] == f"{tmp_path}/the models/it's:/models/it's:ro"


@pytest.mark.usefixtures("export_copy")
@pytest.mark.parametrize(
    ("name", "options"), [("docker", []), ("tensorflow_model_server", ["--all-interfaces"])]
)
def test_serves(example, trained, tmp_path, install, program, capfd, port, name, options):
    _, model, vocabulary = trained
    install(name, program)
    answer = run(example, trained, tmp_path, port, "--once", *options)
    words, log_probs = model.next_words([vocabulary.end_id, 2, 3], k=5)
    assert answer["words"] == [[vocabulary.words[word] for word in words]]
    assert answer["log_probs"][0] == pytest.approx(log_probs, abs=1e-5)
    assert example.escape(vocabulary.words[words[0]]) in capfd.readouterr().out


@pytest.mark.usefixtures("export_nothing")
def test_no_other_machine_reaches_the_server_by_default(example, trained, tmp_path, install, port):
    install("tensorflow_model_server", "#!/bin/sh\nexit 1\n")
    with pytest.raises(SystemExit, match=r"listens on all(.|\n)*--all-interfaces"):
        run(example, trained, tmp_path, port)


@pytest.mark.usefixtures("export_nothing")
def test_a_server_that_fails_is_an_error(example, trained, tmp_path, install, port):
    install("tensorflow_model_server", "#!/bin/sh\nexit 1\n")
    with pytest.raises(SystemExit, match="did not make the model available"):
        run(example, trained, tmp_path, port, "--all-interfaces")


@pytest.mark.usefixtures("export_nothing")
@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (200, b"<html>", "did not answer as TensorFlow Serving does"),
        (200, b"[]", r"did not answer as TensorFlow Serving does .* Received: \[\]"),
        (200, b"{}", r"TensorFlow Serving does \('outputs'\). Received: \{\}"),
        (200, b'{"outputs": {"words": [["a"]], "log_probs": [[]]}}', "does .*shorter"),
        (200, b'{"outputs": {"words": [["a"]], "log_probs": [["x"]]}}', "TensorFlow Serving does"),
        (400, b'{"error": "k is \x1b[2J"}', r'refused the request: .*400.*"k is \\x1b\[2J"'),
    ],
)
def test_malformed_replies(example, trained, tmp_path, install, port, status, content, message):
    source = REPLY.format(
        python=sys.executable, status=status, content=content, pid_path=str(tmp_path / "pid")
    )
    install("tensorflow_model_server", source)
    with pytest.raises(SystemExit, match=message):
        run(example, trained, tmp_path, port, "--all-interfaces")


def test_printed_words_do_nothing_to_a_terminal(example):
    assert example.escape("naïve 東京 \x1b[2J\x9b\u202e\n") == r"naïve 東京 \x1b[2J\x9b\u202e\n"


# `serve.py` twice, with an export that does nothing.
SERVE = """
import sys
sys.path[:0] = {paths!r}
from scripts import load_script
example = load_script("examples/serve.py")
example.export_saved_model = lambda *_: "nothing"
example.main(sys.argv[1:])
print("ended", flush=True)
example.main(sys.argv[1:])
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_signals_stop_the_server(trained, tmp_path, install, port):
    pid_path = tmp_path / "pid"
    content = b'{"outputs": {"words": [["a"]], "log_probs": [[-1.0]]}}'
    source = REPLY.format(
        python=sys.executable, status=200, content=content, pid_path=str(pid_path)
    )
    install("tensorflow_model_server", source)
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-c", SERVE.format(paths=[str(tests.parent), str(tests)])]
    options = ["--model", str(trained[0]), "--output", str(tmp_path / "lm"), "--all-interfaces"]
    with subprocess.Popen(
        [*command, *options, "--rest-port", str(port)], stdout=subprocess.PIPE, text=True
    ) as process:
        for sent in (signal.SIGINT, signal.SIGTERM):
            assert any(line == "serving; stop with Ctrl-C\n" for line in process.stdout)
            pid = int(pid_path.read_text())
            assert is_running(pid)
            process.send_signal(sent)
            if sent == signal.SIGINT:  # as a script ends that has done its work
                assert process.stdout.readline() == "ended\n"
            else:
                assert process.wait(60) == 143
            deadline = time.monotonic() + 10
            while is_running(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not is_running(pid)
