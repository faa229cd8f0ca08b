"""Runs a SavedModel by the TensorFlow C API, as servers do, in a process without TensorFlow.

python c_api.py REQUESTS.json prints the answers as JSON. The file names the directory of the
TensorFlow wheel, the SavedModel, and calls: `inputs` as `[tensor name, kind, shape, values]`,
`outputs` as `{key: [tensor name, kind]}`. A call that fails is answered by its message.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any

KINDS = {  # name: TF_DataType, C type
    "float32": (1, ctypes.c_float),
    "int32": (3, ctypes.c_int32),
    "int64": (9, ctypes.c_int64),
    "string": (7, ctypes.c_char * 24),  # a TF_TString
}


class Output(ctypes.Structure):
    """TF_Output: one output of an operation of the graph."""

    _fields_ = [("operation", c_void_p), ("index", c_int)]


class Session:
    def __init__(self, wheel: str, saved_model: str) -> None:
        # The framework library first: the other one needs its symbols.
        framework = ctypes.CDLL(f"{wheel}/libtensorflow_framework.so.2", ctypes.RTLD_GLOBAL)
        main = ctypes.CDLL(f"{wheel}/libtensorflow_cc.so.2", ctypes.RTLD_GLOBAL)
        self.libraries = main, framework
        self.status = self.call("TF_NewStatus", c_void_p)
        self.graph = self.call("TF_NewGraph", c_void_p)
        tags = (c_char_p * 1)(b"serve")
        self.session = self.call(
            "TF_LoadSessionFromSavedModel",
            c_void_p,
            c_void_p(self.call("TF_NewSessionOptions", c_void_p)),
            None,
            saved_model.encode(),
            tags,
            1,
            c_void_p(self.graph),
            None,
            c_void_p(self.status),
        )
        self.check()

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        for library in self.libraries:
            if hasattr(library, name):
                function = library[name]
                function.restype = result
                return function(*arguments)
        raise AttributeError(name)

    def check(self) -> None:
        if self.call("TF_GetCode", c_int, c_void_p(self.status)):
            message = self.call("TF_Message", c_char_p, c_void_p(self.status))
            raise RuntimeError(message.decode())

    def find(self, name: str) -> Output:
        operation, _, index = name.partition(":")
        found = self.call(
            "TF_GraphOperationByName", c_void_p, c_void_p(self.graph), operation.encode()
        )
        assert found, name
        return Output(found, int(index))

    def make_tensor(self, kind: str, shape: list[int], values: list[Any]) -> int:
        number, c_type = KINDS[kind]
        size = ctypes.sizeof(c_type) * len(values)
        dims = (c_int64 * len(shape))(*shape)
        tensor = self.call("TF_AllocateTensor", c_void_p, number, dims, len(shape), c_size_t(size))
        data = self.call("TF_TensorData", c_void_p, c_void_p(tensor))
        if kind == "string":
            for index, value in enumerate(values):
                place = c_void_p(data + 24 * index)
                self.call("TF_StringInit", None, place)
                self.call(
                    "TF_StringCopy", None, place, value.encode(), c_size_t(len(value.encode()))
                )
        else:
            (c_type * len(values)).from_address(data)[:] = values
        return tensor

    def read_tensor(self, kind: str, tensor: int) -> dict[str, Any]:
        handle = c_void_p(tensor)
        shape = [
            self.call("TF_Dim", c_int64, handle, axis)
            for axis in range(self.call("TF_NumDims", c_int, handle))
        ]
        data = self.call("TF_TensorData", c_void_p, handle)
        if kind == "string":
            values: list[Any] = []
            for index in range(math.prod(shape)):
                place = c_void_p(data + 24 * index)
                pointer = self.call("TF_StringGetDataPointer", c_void_p, place)
                length = self.call("TF_StringGetSize", c_size_t, place)
                values.append(ctypes.string_at(pointer, length).decode())
        else:
            values = list((KINDS[kind][1] * math.prod(shape)).from_address(data))
        return {"shape": shape, "values": values}

    def run(self, inputs: list[Any], outputs: dict[str, Any]) -> dict[str, Any]:
        feeds = (Output * len(inputs))(*(self.find(name) for name, *_ in inputs))
        values = (c_void_p * len(inputs))(*(self.make_tensor(*rest) for _, *rest in inputs))
        fetches = (Output * len(outputs))(*(self.find(name) for name, _ in outputs.values()))
        results = (c_void_p * len(outputs))()
        self.call(
            "TF_SessionRun",
            None,
            c_void_p(self.session),
            None,
            feeds,
            values,
            len(inputs),
            fetches,
            results,
            len(outputs),
            None,
            0,
            None,
            c_void_p(self.status),
        )
        self.check()
        return {
            key: self.read_tensor(kind, result)
            for (key, (_, kind)), result in zip(outputs.items(), results, strict=True)
        }


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        task = json.load(file)
    session = Session(task["wheel"], task["saved_model"])
    answers = []
    for call in task["calls"]:
        try:
            answers.append(session.run(call["inputs"], call["outputs"]))
        except RuntimeError as error:
            answers.append({"error": str(error)})
    assert "tensorflow" not in sys.modules
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
