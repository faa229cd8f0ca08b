"""The protocol of TensorFlow Serving, with its own messages and stubs, over an exported model."""

from __future__ import annotations

from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

REASON = "pip install grpcio tensorflow-serving-api (with --no-deps)"
grpc = pytest.importorskip("grpc", reason=REASON)
pytest.importorskip("tensorflow_serving", reason=REASON)

from tensorflow_serving.apis import (  # noqa: E402
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, path):
        self.served = tf.saved_model.load(path)

    def Predict(self, request, context):
        signature = self.served.signatures[request.model_spec.signature_name]
        inputs = {
            name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
        }
        try:
            outputs = signature(**inputs)
        except tf.errors.InvalidArgumentError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        response = predict_pb2.PredictResponse()
        for name, value in outputs.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response


@pytest.fixture(scope="module")
def stub(by_id):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(by_id), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)
    server.stop(None).wait()


def predict(stub, signature, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "lightrnn"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    outputs = stub.Predict(request, timeout=60).outputs
    return {name: tf.make_ndarray(value) for name, value in outputs.items()}


def test_text_in_words_out(stub, model, vocabulary):
    answer = predict(stub, "next_words", text=["w3 w1", "東京"], k=np.int32(3))
    for i, text in enumerate(["w3 w1", "東京"]):
        prefix = [vocabulary.end_id, *vocabulary.encode(text)[:-1]]
        words, log_probs = model.next_words(prefix, k=3)
        assert answer["words"][i].tolist() == [vocabulary.words[w].encode() for w in words]
        assert answer["log_probs"][i] == pytest.approx(log_probs, abs=1e-4)


def test_bad_input_is_an_invalid_argument(stub):
    with pytest.raises(grpc.RpcError, match="`k` must lie in") as error:
        predict(stub, "next_words", text=["w3"], k=np.int32(0))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_warm_up_requests_are_answered(stub, by_id):
    path = by_id / "assets.extra" / "tf_serving_warmup_requests"
    signatures = []
    for record in tf.data.TFRecordDataset(str(path)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert stub.Predict(request, timeout=60).outputs
        signatures.append(request.model_spec.signature_name)
    assert sorted({*signatures}) == ["generate", "next_words", "score", "score_ids"]
