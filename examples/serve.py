"""Export a trained model and serve it with TensorFlow Serving.

Reads what `examples/train_language_model.py` has written (`model.keras` and `vocabulary.txt`),
exports the next version of a SavedModel, and starts `tensorflow_model_server` on it, where that
is installed. Asks it over REST for the next words of a text, and goes on serving until it is
interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

import keras_lightrnn  # noqa: F401, Keras finds the classes of the model
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.serving import export_saved_model

SERVER = "tensorflow_model_server"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("lightrnn-model"),
        help="directory of model.keras and vocabulary.txt (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("models/lightrnn"),
        help="directory of the versions; its name is the name that is served "
        "(default: %(default)s)",
    )
    parser.add_argument("--text", default="it is", help="continued once (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, default=8500, help="default: %(default)s")
    parser.add_argument("--rest-port", type=int, default=8501, help="default: %(default)s")
    parser.add_argument("--once", action="store_true", help="stop after the first answer")
    return parser


def describe_installation(output: Path, grpc_port: int, rest_port: int) -> str:
    path = output.resolve()
    name = path.name
    variable, volume = (shlex.quote(x) for x in (f"MODEL_NAME={name}", f"{path}:/models/{name}"))
    return (
        f"\nNo `{SERVER}` is on the PATH, so nothing serves the model yet. Either\n"
        "- install the Debian package `tensorflow-model-server`, from the repository that\n"
        "  https://www.tensorflow.org/tfx/serving/setup describes, and run this again; or\n"
        "- with Docker, run\n"
        f"    docker run -p {grpc_port}:8500 -p {rest_port}:8501 -e {variable} \\\n"
        f"        -v {volume} tensorflow/serving"
    )


def send(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST `body` as JSON; return the JSON of the answer."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as response:
        return json.load(response)


def wait_until_available(url: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    start = time.monotonic()
    while server.poll() is None and time.monotonic() - start < seconds:
        try:
            states = [version["state"] for version in send(url)["model_version_status"]]
        except (urllib.error.URLError, ConnectionError):
            states = []  # not there yet
        if "AVAILABLE" in states:
            return
        time.sleep(0.2)
    raise SystemExit(f"{SERVER} did not make the model available; its messages are above.")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = make_parser().parse_args(argv)
    model = keras.saving.load_model(args.model / "model.keras")
    vocabulary = Vocabulary.load(args.model / "vocabulary.txt")
    version = export_saved_model(model, vocabulary, args.output)
    print(f"exported {version}", flush=True)

    executable = shutil.which(SERVER)
    if executable is None:
        raise SystemExit(describe_installation(args.output, args.grpc_port, args.rest_port))
    name = args.output.resolve().name
    server = subprocess.Popen(
        [
            executable,
            f"--port={args.grpc_port}",
            f"--rest_api_port={args.rest_port}",
            f"--model_name={name}",
            f"--model_base_path={args.output.resolve()}",
        ]
    )
    try:
        url = f"http://localhost:{args.rest_port}/v1/models/{name}"
        wait_until_available(url, server)
        body = {"signature_name": "next_words", "inputs": {"text": [args.text], "k": 5}}
        print(f"POST {url}:predict {json.dumps(body)}", flush=True)
        answer = send(f"{url}:predict", body)["outputs"]
        for word, log_prob in zip(answer["words"][0], answer["log_probs"][0], strict=True):
            print(f"  {word}  {log_prob:.3f}", flush=True)
        if not args.once:
            server.wait()
    finally:
        server.terminate()
        server.wait()
    return answer


if __name__ == "__main__":
    main()
