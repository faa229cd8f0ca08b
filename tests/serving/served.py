"""Calls of a SavedModel, in this process and through the C API."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_lightrnn.serving import export_saved_model

needs_c_api = pytest.mark.skipif(
    not list(Path(tf.__file__).parent.glob("libtensorflow_cc.so.2")),
    reason="this TensorFlow wheel holds no libtensorflow_cc.so.2",
)


def call(served, signature, **inputs):
    function = served.signatures[signature]
    specs = tf.nest.flatten(function.structured_input_signature)
    dtypes = {spec.name: spec.dtype for spec in specs}
    inputs = {name: tf.constant(value, dtypes[name]) for name, value in inputs.items()}
    return {name: value.numpy() for name, value in function(**inputs).items()}


class Unsaved:
    """The signatures of an export that is not written, each traced when it is first called.

    To save and load a SavedModel takes seconds, in which only its kind of network matters.
    """

    def __init__(self, model, vocabulary, directory, **options):
        def keep(served, _, signatures):
            self._served, self._functions = served, signatures

        with pytest.MonkeyPatch.context() as context:
            context.setattr(tf.saved_model, "save", keep)
            export_saved_model(model, vocabulary, directory, **options)

    @property
    def signatures(self):
        return self

    def __getitem__(self, name):
        return self._functions[name].get_concrete_function()


def decode(words):
    return [word.decode() for word in words]


def run_c_api(directory, calls, tmp_path):
    """Return the answers of the C API to `(signature, inputs)`, in a process of its own."""
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((directory / "saved_model.pb").read_bytes())
    signatures = message.meta_graphs[0].signature_def

    def kind(tensor):
        return tf.as_dtype(tensor.dtype).name

    requests = []
    for name, inputs in calls:
        feeds = []
        for key, tensor in signatures[name].inputs.items():
            value = np.array(inputs[key])
            feeds.append([tensor.name, kind(tensor), value.shape, value.ravel().tolist()])
        fetches = {key: [x.name, kind(x)] for key, x in signatures[name].outputs.items()}
        requests.append({"inputs": feeds, "outputs": fetches})
    wheel = Path(tf.__file__).parent
    task = {"wheel": str(wheel), "saved_model": str(directory), "calls": requests}
    (tmp_path / "task.json").write_text(json.dumps(task))
    script = Path(__file__).with_name("c_api.py")
    command = [sys.executable, str(script), str(tmp_path / "task.json")]
    result = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    return json.loads(result.stdout)
