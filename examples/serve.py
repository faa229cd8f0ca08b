"""Export a trained model and serve it with TensorFlow Serving.

Reads the files that `examples/train_language_model.py` writes (`model.keras` and
`vocabulary.txt`), exports the next version of a SavedModel, and starts TensorFlow Serving on it.
Then asks the server over REST for the next words of a text, and serves until it is interrupted
(Ctrl-C or SIGTERM).

By default only this machine can reach the server. `tensorflow_model_server` always listens on all
network interfaces, so the default starts it in a Docker container whose ports are published on
localhost. `--all-interfaces` starts `tensorflow_model_server` itself, or publishes the ports of
the container on all interfaces.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import quiet_start  # noqa: F401 (first, because it imports TensorFlow)

# isort: split
import keras

import keras_lightrnn  # noqa: F401, Keras finds the classes of the model
from keras_lightrnn.data import Vocabulary
from keras_lightrnn.serving import export_saved_model

SERVER = "tensorflow_model_server"
STOP_SECONDS = 20


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
        help="directory of the versions; its name is the name of the served model "
        "(default: %(default)s)",
    )
    parser.add_argument("--text", default="it is", help="text to complete (default: %(default)s)")
    parser.add_argument("--grpc-port", type=int, default=8500, help="default: %(default)s")
    parser.add_argument("--rest-port", type=int, default=8501, help="default: %(default)s")
    parser.add_argument(
        "--all-interfaces",
        action="store_true",
        help="let other machines reach the server (default: this machine only)",
    )
    parser.add_argument("--once", action="store_true", help="stop after the first answer")
    return parser


def make_docker_command(args: argparse.Namespace) -> list[str]:
    path = args.output.resolve()
    host = "" if args.all_interfaces else "127.0.0.1:"
    return [
        *("docker", "run", "--rm", "--init"),
        *("-p", f"{host}{args.grpc_port}:8500", "-p", f"{host}{args.rest_port}:8501"),
        *("-e", f"MODEL_NAME={path.name}"),
        *("-v", f"{path}:/models/{path.name}:ro", "tensorflow/serving"),
    ]


def make_server_command(args: argparse.Namespace) -> list[str]:
    """Return the command that starts the server, or exit with a description of what is missing."""
    path = args.output.resolve()
    executable = shutil.which(SERVER)
    if args.all_interfaces and executable is not None:
        return [
            executable,
            f"--port={args.grpc_port}",
            f"--rest_api_port={args.rest_port}",
            f"--model_name={path.name}",
            f"--model_base_path={path}",
        ]
    if shutil.which("docker") is not None:
        return make_docker_command(args)
    if executable is not None:
        raise SystemExit(
            f"\n`{SERVER}` is installed, but it always listens on all network interfaces. Run this "
            "again\nwith --all-interfaces if other machines may reach the server, or install "
            "Docker."
        )
    raise SystemExit(
        f"\nNeither `docker` nor `{SERVER}` is on the PATH, so nothing serves the model yet. "
        "Either\n- install Docker and run this again; or, with Docker elsewhere, run there\n"
        f"    {shlex.join(make_docker_command(args))}\n"
        "- or install the Debian package `tensorflow-model-server`, from the repository that\n"
        "  https://www.tensorflow.org/tfx/serving/setup describes, and run this again with "
        "--all-interfaces."
    )


@contextlib.contextmanager
def run_server(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends, by SIGTERM to this process too."""
    # Without a handler, SIGTERM would end this process alone and leave the server running.
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        server = subprocess.Popen(command)
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        signal.signal(signal.SIGTERM, previous)


def send(url: str, body: dict[str, Any] | None = None) -> Any:
    """GET, or POST `body` as JSON; return the JSON of the reply.

    Raises:
        OSError: if the server cannot be reached or answers with an error.
        ValueError: if the reply is not JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as response:
        return json.load(response)


def wait_until_available(url: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    start = time.monotonic()
    while server.poll() is None and time.monotonic() - start < seconds:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError):
            if "AVAILABLE" in [version["state"] for version in send(url)["model_version_status"]]:
                return
        time.sleep(0.2)
    raise SystemExit("The server did not make the model available; its messages are above.")


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the outputs of `next_words`, or exit with a message."""
    reply: Any = None
    try:
        reply = send(f"{url}:predict", body)
        outputs = reply["outputs"]
        pairs = zip(outputs["words"][0], outputs["log_probs"][0], strict=True)
        for word, log_prob in pairs:
            print(f"  {escape(word)}  {log_prob:.3f}", flush=True)
    except urllib.error.HTTPError as error:
        message = error.read().decode(errors="replace")
        raise SystemExit(f"The server refused the request: {error}: {escape(message)}") from error
    except (OSError, http.client.HTTPException) as error:
        raise SystemExit(f"The server did not answer: {error}.") from error
    except (ValueError, LookupError, TypeError) as error:
        raise SystemExit(
            f"{url} did not answer as TensorFlow Serving does ({escape(str(error))}). Received: "
            f"{escape(repr(reply))[:200]}. Does another program listen on this port?"
        ) from error
    return outputs


def escape(text: str) -> str:
    """Return text that does nothing to a terminal: words come from a corpus, not from you."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = make_parser().parse_args(argv)
    model = keras.saving.load_model(args.model / "model.keras")
    vocabulary = Vocabulary.load(args.model / "vocabulary.txt")
    version = export_saved_model(model, vocabulary, args.output)
    print(f"exported {version}", flush=True)

    with run_server(make_server_command(args)) as server:
        url = f"http://127.0.0.1:{args.rest_port}/v1/models/{args.output.resolve().name}"
        wait_until_available(url, server)
        body = {"signature_name": "next_words", "inputs": {"text": [args.text], "k": 5}}
        print(f"POST {url}:predict {json.dumps(body)}", flush=True)
        answer = ask(url, body)
        if not args.once:
            with contextlib.suppress(KeyboardInterrupt):
                print("serving; stop with Ctrl-C", flush=True)
                server.wait()
    return answer


if __name__ == "__main__":
    main()
