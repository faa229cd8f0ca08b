from __future__ import annotations

import gzip
import itertools

import keras
import numpy as np
import pytest
from scripts import load_script

NAME = "examples/recommend_next_item.py"
SMALL = ["--units", "16", "--item-dim", "4", "--learning-rate", "0.02"]


@pytest.fixture(scope="module")
def example():
    return load_script(NAME)


@pytest.fixture(scope="module")
def trained(example, tmp_path_factory):
    output = tmp_path_factory.mktemp("recommender")
    options = ["--features", "--num-sessions", "6000", "--epochs", "3", "--batch-size", "300"]
    options += ["--seed", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example, "LENGTHS", (4, 20))  # two shapes are compiled, and not eight
        return example.main([*SMALL, *options, "--output", str(output)]), output


def test_predicts_better_than_popularity(trained):
    result, _ = trained
    found, popular = (np.mean(result[name] <= 20) for name in ("ranks", "ranks_of_popular"))
    assert found > 2 * popular > 0


def test_recommends_new_items(trained):
    # By chance, 20 of 1,920.
    assert np.mean(trained[0]["ranks_of_new"] <= 20) > 0.1


def test_seen_items_are_left_out(example, trained):
    sessions = example.make_sessions(6000, seed=1).test
    shown = [session[:-1] for session in sessions[:: len(sessions) // 3][:3]]
    for session, items in zip(shown, trained[0]["best"], strict=True):
        assert len(set(items)) == 20
        assert not set(items) & {0, *session}


def test_the_saved_model_predicts_the_same(example, trained):
    result, output = trained
    model = keras.saving.load_model(output / "model.keras")
    softmax = next(x for x in model.layers if type(x).__name__ == "TwoComponentSoftmax")
    loaded = example.Recommender(model, model.get_layer("encoder"), None, softmax)
    search = example.make_search(loaded, leave_out_seen=False)
    sessions = example.make_sessions(6000, seed=1)
    assert np.array_equal(example.compute_ranks(search, sessions.test), result["ranks"])


def test_search_is_that_of_the_model(example, trained):
    """The best items of a session are those with the greatest log-probabilities."""
    model = keras.saving.load_model(trained[1] / "model.keras")
    softmax = next(x for x in model.layers if type(x).__name__ == "TwoComponentSoftmax")
    loaded = example.Recommender(model, model.get_layer("encoder"), None, softmax)
    search = example.make_search(loaded, leave_out_seen=False)
    sessions = [[3, 1, 4, 3], [7]]
    best, log_probs = search.predict(example.pad_left(sessions), verbose=0)
    items = np.arange(1, softmax.word_table.vocabulary_size)
    for session, of_session, expected in zip(sessions, best, log_probs, strict=True):
        windows = np.column_stack([np.tile(session, (len(items), 1)), items])
        all_log_probs = model.predict(windows, batch_size=512, verbose=0)[:, -1]
        order = np.argsort(-all_log_probs)[: example.BEST]
        assert np.array_equal(items[order], of_session)
        assert np.allclose(all_log_probs[order], expected, atol=1e-4)
        assert np.isclose(np.exp(all_log_probs).sum(), 1, atol=1e-4)


def test_padding_on_the_left_changes_nothing(example, trained):
    model = keras.saving.load_model(trained[1] / "model.keras").get_layer("encoder")
    outputs = [model(np.array([[0] * n + [3, 1, 4]])) for n in (0, 5)]
    for output, padded in zip(*outputs, strict=True):
        assert np.allclose(output[:, -1], padded[:, -1, -output.shape[-1] :], atol=1e-5)


def test_batches_hold_every_transition_once(example):
    generator = np.random.default_rng(0)
    sessions = [generator.integers(1, 9, size=size) for size in generator.integers(2, 50, size=40)]
    batches = example.SessionBatches(sessions, num_targets=32, seed=0)
    pairs = []
    for windows, targets, weights in (batches[i] for i in range(len(batches))):
        is_target = weights > 0
        assert np.array_equal(is_target, targets > 0)
        pairs += zip(windows[:, :-1][is_target], targets[is_target], strict=True)
    expected = [pair for s in sessions for pair in itertools.pairwise(s)]
    assert sorted(pairs) == sorted(expected)


def test_reads_files(example, tmp_path, capsys):
    generator = np.random.default_rng(0)
    lines = [
        " ".join(str(1 + (start + step) % 30) for step in range(5))
        for start in generator.integers(30, size=400)
    ]
    with gzip.open(tmp_path / "train.gz", "wt") as file:
        file.write("\n".join([*lines, "7", ""]))
    (tmp_path / "test").write_text("\n".join(lines[:60]))
    files = ["--train", str(tmp_path / "train.gz"), "--test", str(tmp_path / "test")]
    options = ["--epochs", "6", "--batch-size", "64", "--tables", "2", "--dropout", "0"]
    result = example.main([*SMALL, *files, *options, "--output", str(tmp_path / "out")])
    assert np.mean(result["ranks"] == 1) > 0.9
    assert "sessions: 400 training, 60 test, 30 items" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 x", "line 1: items must be integers"), ("1 2\n0 3", "line 2.*one is 0"), ("5", "no ses")],
)
def test_wrong_files(example, tmp_path, text, message):
    (tmp_path / "file").write_text(text)
    with pytest.raises(SystemExit, match=message):
        example.read_sessions(tmp_path / "file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "x"], "go together"),
        (["--train", "x", "--test", "x", "--features"], "needs a file"),
        (["--features", "x"], "together with --train"),
    ],
)
def test_options_that_do_not_fit(example, capsys, options, message):
    with pytest.raises(SystemExit):
        example.main(options)
    assert message in capsys.readouterr().err
