"""Warm-up requests, which TensorFlow Serving runs when it loads a model."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf


def write_warm_up_requests(
    directory: str | os.PathLike[str], requests: list[tuple[str, dict[str, Any]]]
) -> None:
    """Write `assets.extra/tf_serving_warmup_requests` into a SavedModel.

    The file is a TFRecord of `PredictionLog` messages. This function encodes their four nested
    messages in the protocol buffer wire format, so that an export does not depend on the package
    that defines them (`tensorflow-serving-api`).

    Args:
        directory: Directory of the SavedModel.
        requests: List of pairs: the name of a signature and a dictionary of its inputs.
    """
    folder = os.path.join(directory, "assets.extra")
    os.makedirs(folder)
    with tf.io.TFRecordWriter(os.path.join(folder, "tf_serving_warmup_requests")) as writer:
        for signature, inputs in requests:
            request = _field(1, _field(3, signature.encode()))  # model_spec.signature_name
            for name, value in inputs.items():
                tensor = tf.make_tensor_proto(value).SerializeToString()
                request += _field(2, _field(1, name.encode()) + _field(2, tensor))  # inputs
            predict_log = _field(1, request)
            writer.write(_field(6, predict_log))  # PredictionLog.predict_log


def _field(number: int, payload: bytes) -> bytes:
    """Encode one length-delimited field of a message."""
    length, size = bytearray(), len(payload)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + payload
