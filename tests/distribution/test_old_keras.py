"""What is refused where Keras has no variables that replicas keep for themselves."""

from __future__ import annotations

import pytest

from keras_lightrnn._internal import distribution


def test_state_of_replicas_is_refused(monkeypatch):
    monkeypatch.setattr(distribution, "_HAS_SYNCHRONIZATION", False)
    assert distribution.make_replica_variable((2,), "state").shape == (2,)
    monkeypatch.setattr(distribution, "count_replicas", lambda: 2)
    with pytest.raises(RuntimeError, match=r"needs a Keras whose.*on 2 replicas\. Upgrade Keras"):
        distribution.make_replica_variable((2,), "state")
