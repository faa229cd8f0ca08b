from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

SECONDS = 60
NUM_THREADS = 4


def read_resident_megabytes():
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


@pytest.mark.slow
def test_threads_get_equal_answers_and_memory_stays_flat(by_id):
    served = tf.saved_model.load(by_id)
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(50, size=size)) for size in range(12)]
    sampling = {"length": tf.constant(5), "seed": tf.constant(1, tf.int64)}
    requests = []
    for size in (1, 3, 12):
        text = tf.constant(texts[-size:])
        requests += [
            ("score", {"text": text}),
            ("next_words", {"text": text, "k": tf.constant(size)}),
            ("generate", {"text": text, "temperature": tf.constant(0.8), **sampling}),
            ("generate", {"text": text, "temperature": tf.constant(0.0), **sampling}),
        ]

    def answer(request):
        name, inputs = request
        return {key: value.numpy() for key, value in served.signatures[name](**inputs).items()}

    expected = [answer(request) for request in requests]
    problems, counts = [], [0] * NUM_THREADS
    stop = threading.Event()

    def work(thread):
        for index in itertools.cycle(range(len(requests))):
            if stop.is_set():
                return
            received = answer(requests[index])
            for key, value in expected[index].items():
                same = (
                    np.array_equal(received[key], value)
                    if value.dtype.kind in "OiS"
                    else np.allclose(received[key], value, atol=1e-5)
                )
                if not same:
                    problems.append((index, key))
            counts[thread] += 1

    threads = [threading.Thread(target=work, args=(i,)) for i in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS / 4)  # memory pools fill up at first
    before = read_resident_megabytes()
    time.sleep(3 * SECONDS / 4)
    after = read_resident_megabytes()
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert min(counts) > 100
    # A leak of 100 bytes a request would show.
    assert after - before < max(5, 1e-4 * sum(counts))
