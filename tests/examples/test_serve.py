from __future__ import annotations

import shlex
import socket
import sys

import pytest
from scripts import load_script

from keras_lightrnn import LightRNNModel
from keras_lightrnn.data import Vocabulary

# The REST protocol of TensorFlow Serving over an exported model, as far as the example needs it.
SERVER = f"""#!{sys.executable}
import http.server, json, os, sys
import tensorflow as tf

flags = dict(argument.lstrip("-").split("=", 1) for argument in sys.argv[1:])
(version,) = [name for name in os.listdir(flags["model_base_path"]) if name.isdecimal()]
served = tf.saved_model.load(os.path.join(flags["model_base_path"], version))

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def do_GET(self):
        assert self.path == "/v1/models/" + flags["model_name"], self.path
        self.answer({{"model_version_status": [{{"version": version, "state": "AVAILABLE"}}]}})

    def do_POST(self):
        assert self.path == "/v1/models/" + flags["model_name"] + ":predict", self.path
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        signature = served.signatures[body["signature_name"]]
        inputs = {{name: tf.constant(value) for name, value in body["inputs"].items()}}
        outputs = {{name: value.numpy().tolist() for name, value in signature(**inputs).items()}}
        outputs["words"] = [[word.decode() for word in row] for row in outputs["words"]]
        self.answer({{"outputs": outputs}})

http.server.HTTPServer(("localhost", int(flags["rest_api_port"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def example():
    return load_script("examples/serve.py")


@pytest.fixture
def trained(tmp_path):
    """The files that `train_language_model.py` leaves."""
    vocabulary = Vocabulary([*(f"w{i}" for i in range(8)), "<unk>", "<eos>"])
    vocabulary.save(tmp_path / "vocabulary.txt")
    model = LightRNNModel(len(vocabulary), embedding_dim=4, units=4)
    model.build((None, None))
    model.save(tmp_path / "model.keras")
    return model, vocabulary


def test_says_what_to_install(example, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match=r"tensorflow-model-server(.|\n)*docker run -p 8500:8500"):
        example.main(["--model", str(tmp_path), "--output", str(tmp_path / "out" / "lm")])
    assert (tmp_path / "out" / "lm" / "1" / "saved_model.pb").exists()


def test_the_command_that_it_prints_is_one_for_a_shell(example, tmp_path):
    text = example.describe_installation(tmp_path / "the models" / "it's", 8500, 8501)
    words = shlex.split(text[text.index("docker run") :].replace("\\\n", ""))
    assert "MODEL_NAME=it's" in words
    assert words[-3:] == ["-v", f"{tmp_path}/the models/it's:/models/it's", "tensorflow/serving"]


def test_serves(example, trained, tmp_path, monkeypatch, capfd):
    model, vocabulary = trained
    server = tmp_path / "bin" / "tensorflow_model_server"
    server.parent.mkdir()
    server.write_text(SERVER)
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(server.parent), prepend=":")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    options = ["--text", "w1 w2", "--rest-port", str(port), "--once"]
    answer = example.main(["--model", str(tmp_path), "--output", str(tmp_path / "lm"), *options])
    words, log_probs = model.next_words([vocabulary.end_id, 1, 2], k=5)
    assert answer["words"] == [[vocabulary.words[word] for word in words]]
    assert answer["log_probs"][0] == pytest.approx(log_probs, abs=1e-5)
    assert vocabulary.words[words[0]] in capfd.readouterr().out


def test_a_server_that_fails_is_an_error(example, trained, tmp_path, monkeypatch):
    server = tmp_path / "bin" / "tensorflow_model_server"
    server.parent.mkdir()
    server.write_text("#!/bin/sh\nexit 1\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(server.parent), prepend=":")
    with pytest.raises(SystemExit, match="did not make the model available"):
        example.main(["--model", str(tmp_path), "--output", str(tmp_path / "lm"), "--once"])
