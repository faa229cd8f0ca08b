"""Reallocation of models with several tables, one table at a time."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_lightrnn import Allocation, LightRNNModel, WordTable
from keras_lightrnn.callbacks import ReallocationCallback
from keras_lightrnn.callbacks.carried_vectors import carry_vectors
from keras_lightrnn.callbacks.rounds import Rounds
from keras_lightrnn.layers import TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.reallocation import LikelihoodObjective

V = 20


@pytest.fixture(autouse=True)
def _quickly_compiled(monkeypatch):
    """Operations that XLA need not compile; the sums do not depend on it."""
    predict = TwoComponentSoftmax.predict
    monkeypatch.setattr(
        TwoComponentSoftmax,
        "predict",
        lambda self, states, targets, _: predict(self, states, targets, False),
    )


def make_windows(num_windows=64):
    rng = np.random.default_rng(0)
    windows = rng.integers(V, size=(num_windows, 7))
    windows[:, 1::2] = (windows[:, 0:-1:2] * 3 + 1) % V
    return windows


def make_model(optimizer=None, run_eagerly=True, **kwargs):
    keras.utils.set_random_seed(1)
    allocations = [Allocation.random(V, 5, 4, seed=3), Allocation.random(V, 4, 5, seed=4)]
    model = LightRNNModel(
        allocations, embedding_dim=6, units=6, recurrence="rnn", recurrence_path="keras", **kwargs
    )
    # It has slots, and takes fewer operations than Adam; a few steps need no trace.
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9) if optimizer is None else optimizer
    model.compile(optimizer, run_eagerly=run_eagerly)
    model.build((None, None))
    return model


def to_numpy(weights):
    return [keras.ops.convert_to_numpy(weight) for weight in weights]


class Watch(keras.callbacks.Callback):
    """Keeps what an epoch left; comes before the `ReallocationCallback`."""

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        self.allocations = [table.allocation for table in model.word_tables]
        self.weights = {
            weight.path: keras.ops.convert_to_numpy(weight)
            for weight in [*model.trainable_weights, *model.optimizer.variables]
        }


class Spy(LikelihoodObjective):
    """Keeps what it is asked."""

    def propose(self, sums, weights, allocation, prices=None):
        self.sums, self.weights, self.allocation = sums, weights, allocation
        return super().propose(sums, weights, allocation, prices)


@pytest.mark.parametrize("objective", ["similarity", "likelihood"])
@pytest.mark.parametrize(("table", "is_tied"), [(0, False), (1, False), (1, True)])
def test_a_round_changes_one_table_and_its_vectors_only(objective, table, is_tied):
    model, watch = make_model(tie_embeddings=is_tied), Watch()
    callback = ReallocationCallback(objective, tables=table, verbose=0, at_end=True)
    history = model.fit(make_windows(), callbacks=[watch, callback], verbose=0).history
    (record,) = callback.history
    assert record["table"] == history["reallocation_table"][0] == table
    assert record["cost"] < record["cost_before"]
    after = [word_table.allocation for word_table in model.word_tables]
    assert watch.allocations[table].count_moved(after[table]) == record["moved"] > 0
    assert after[1 - table] == watch.allocations[1 - table]
    layers = [model.embedding.list_tables()[table]]
    if objective == "similarity":
        layers.append(model.softmax.list_tables()[table])
    may_change = {weight.path for x in layers for weight in [*x.row_weights, *x.column_weights]}
    if is_tied and objective == "likelihood":  # which assumes that the kernels stay
        softmax = model.softmax.list_tables()[table]
        may_change -= {softmax.row_kernel.path, softmax.column_kernel.path}
    slots = tuple(path.replace("/", "_") + "_" for path in may_change)
    changed = set()
    for weight in [*model.trainable_weights, *model.optimizer.variables]:
        if not np.array_equal(keras.ops.convert_to_numpy(weight), watch.weights[weight.path]):
            changed.add(weight.path)
    assert may_change <= changed | {x for x in may_change if "bias" in x}
    assert all(path in may_change or path.split("/")[-1].startswith(slots) for path in changed), (
        changed
    )


def test_vectors_and_slots_are_carried_by_occurrences_and_by_shares():
    model, watch, spy = make_model(keras.optimizers.Adam(0.02)), Watch(), Spy("exact")
    spy.carries_output = True
    callback = ReallocationCallback(spy, tables=1, verbose=0, at_end=True)
    windows = make_windows()
    model.fit(windows, callbacks=[watch, callback], verbose=0)
    old, new = watch.allocations[1], model.word_tables[1].allocation
    occurrences = np.bincount(windows[:, 1:].ravel(), minlength=V)
    embedding, softmax = model.embedding.further_tables[0], model.softmax.further_tables[0]
    for weight, groups, counts in (
        (embedding.row_embeddings, "rows", occurrences),
        (embedding.input_gate, "rows", occurrences),
        (embedding.column_embeddings, "columns", occurrences),
        (softmax.row_kernel, "rows", spy.sums["counts"]),
        (softmax.row_reader.row_gate, "rows", spy.sums["counts"]),
        (softmax.column_kernel, "columns", spy.sums["counts"]),
    ):
        prefix = weight.path.replace("/", "_") + "_"
        slots = [x for x in model.optimizer.variables if x.name.startswith(prefix)]
        assert len(slots) == 2
        for variable in (weight, *slots):
            before = watch.weights[variable.path]
            expected = carry_vectors(before, getattr(old, groups), getattr(new, groups), counts)
            assert np.abs(expected - before).max() > 0
            received = keras.ops.convert_to_numpy(variable)
            np.testing.assert_allclose(received, expected, atol=1e-6)
    assert not np.allclose(spy.sums["counts"], occurrences)


@pytest.mark.parametrize("num_components", [1, 2])
def test_sums_are_weighted_by_the_shares_of_the_components(num_components):
    windows = make_windows(16)
    counts = np.bincount(windows[:, 1:].ravel(), minlength=V)
    total = np.zeros(V)
    for table in range(2):
        # At a learning rate of zero the states of all steps are those of one network.
        model, spy = make_model("sgd", num_components=num_components), Spy("exact")
        model.optimizer.learning_rate = 0.0
        model.softmax.component_kernel.assign(
            np.random.default_rng(0).normal(size=model.softmax.component_kernel.shape)
        )
        callback = ReallocationCallback(spy, tables=table, verbose=0, at_end=True)
        tables = model.softmax.list_tables()
        states, _ = model.recurrent_stack(model.embedding(windows[:, :-1]))
        parts = [x.predict(states, windows[:, 1:], False) for x in tables]
        weights = to_numpy([model.softmax.compute_component_log_probs(states)])[0]
        joint = np.exp(weights + np.concatenate(to_numpy([part[0] for part in parts]), axis=-1))
        shares = joint / joint.sum(axis=-1, keepdims=True)
        start = table * num_components
        shares = shares[..., start : start + num_components]
        expected = {"column_sums": np.zeros((V, 6)), "row_sums": np.zeros((V, 6))}
        for name, queries in zip(expected, to_numpy(parts[table][1:]), strict=True):
            means = (shares[..., None] * queries).sum(axis=-2)
            np.add.at(expected[name], windows[:, 1:], means)
        own = model.word_tables[table].allocation
        model.fit(windows, batch_size=8, callbacks=[callback], verbose=0)
        for name, values in expected.items():
            np.testing.assert_allclose(spy.sums[name], values, rtol=1e-4, atol=1e-4)
        assert spy.allocation == own
        np.testing.assert_array_equal(spy.weights.row_kernel.shape[0], own.num_rows)
        assert "occurrences" not in spy.sums
        total += spy.sums["counts"]
    np.testing.assert_allclose(total, counts, rtol=1e-4)


@pytest.mark.parametrize(("table", "is_tied"), [(0, False), (1, False), (1, True)])
def test_a_round_lowers_the_loss_by_no_less_than_the_cost(table, is_tied):
    """The bound of expectation maximisation, where nothing but the cells matters."""
    windows = make_windows()
    model = make_model(tie_embeddings=is_tied)
    model.fit(windows, epochs=2, verbose=0)
    for softmax in model.softmax.list_tables():  # so that a column does not depend on its row
        for weight in softmax.row_reader.weights:
            weight.assign(keras.ops.zeros_like(weight))
    model.optimizer.learning_rate = 0.0
    states, _ = model.recurrent_stack(model.embedding(windows[:, :-1]))
    before = -np.mean(to_numpy([model.softmax(states, windows[:, 1:])]), dtype=float)
    spy = Spy("exact")
    callback = ReallocationCallback(spy, tables=table, verbose=0, at_end=True)
    model.fit(windows, callbacks=[callback], verbose=0)
    after = -np.mean(to_numpy([model.softmax(states, windows[:, 1:])]), dtype=float)
    (record,) = callback.history
    assert record["moved"] > 0
    # Costs are means over the words that count for the table.
    share = spy.sums["counts"].sum(dtype=float) / windows[:, 1:].size
    change = share * (record["cost"] - record["cost_before"])
    assert after - before <= change + 1e-6 < 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [0]),
        ({"every": [1, 2]}, [0, 1]),
        ({"every": "epoch"}, [0, 1, 0]),
        ({"every": "epoch", "tables": 1}, [1, 1, 1]),
        ({"every": "epoch", "tables": [1, 0]}, [1, 0, 1]),
        ({"every": 3}, [0, 1]),  # of eight steps; none in the last
        ({"every": "epoch", "data": make_windows(16)}, [0, 1, 0]),
        ({"every": [1, 2], "minimum_gain": 100.0}, [0, 1]),
    ],
)
def test_tables_take_turns(arguments, expected):
    model, spy = make_model(), Spy("exact")
    callback = ReallocationCallback(spy, verbose=0, **arguments)
    asked = []
    propose = spy.propose
    spy.propose = lambda sums, weights, allocation, *args, **kwargs: (
        asked.append([x.allocation for x in model.word_tables].index(allocation))
        or propose(sums, weights, allocation, *args, **kwargs)
    )
    windows = make_windows(64 if arguments.get("every") == 3 else 32)
    model.fit(windows, epochs=4, callbacks=[callback], verbose=0)
    assert asked == [record["table"] for record in callback.history] == expected
    assert model.softmax.observers == []


def test_turns_go_on_in_the_next_fit(capsys):
    model = make_model()
    callback = ReallocationCallback("likelihood", at_end=True)
    for _ in range(2):
        model.fit(make_windows(16), callbacks=[callback], verbose=0)
    assert [record["table"] for record in callback.history] == [0, 1]
    assert "reallocation round 2, table 1: cost" in capsys.readouterr().out


def test_each_table_sums_states_of_its_own_turn_only():
    """The counts of a turn are those of its table, whatever was summed before."""
    windows = make_windows(32)
    model, spy = make_model("sgd", run_eagerly=False), Spy("exact")
    model.optimizer.learning_rate = 0.0
    model.softmax.component_bias.assign([2.0, -2.0])
    callback = ReallocationCallback(spy, every=1, minimum_gain=1e9, verbose=0)
    totals = []
    propose = spy.propose
    spy.propose = lambda sums, *args, **kwargs: (
        totals.append(sums["counts"].sum()) or propose(sums, *args, **kwargs)
    )
    model.fit(windows, batch_size=8, epochs=2, shuffle=False, callbacks=[callback], verbose=0)
    assert len(totals) == 7
    assert min(totals[::2]) > 3 * max(totals[1::2]) > 0


def test_prices_belong_to_a_table():
    model = make_model()
    callback = ReallocationCallback(LikelihoodObjective(solver="auction"), every=[1, 2], verbose=0)
    model.fit(make_windows(), epochs=2, callbacks=[callback], verbose=0)
    first, second = callback.prices
    assert first.shape == (5, 4)
    assert second is None
    model.fit(make_windows(), initial_epoch=1, epochs=3, callbacks=[callback], verbose=0)
    first, second = callback.prices
    assert (first.shape, second.shape) == ((5, 4), (4, 5))


def test_rounds_of_several_tables_as_arrays():
    prices = {0: np.ones((2, 3), np.float32), 2: np.zeros((3, 2), np.float32)}
    rounds = Rounds([{"table": 2.0}], prices, num_epochs=1)
    arrays = rounds.to_arrays()
    assert sorted(arrays) == ["prices", "prices_2", "rounds"]
    read = Rounds.from_arrays(arrays)
    assert read.prices.keys() == prices.keys()
    assert all(np.array_equal(read.prices[table], prices[table]) for table in prices)
    with pytest.raises(ValueError, match="cannot be read"):
        Rounds.from_arrays({**arrays, "prices_2": np.zeros(3)})


class RowEmbedding(keras.layers.Embedding):
    """A layer of the user's, indexed by rows."""

    @property
    def row_weights(self):
        return [self.embeddings]


def make_functional(followed):
    """A model in which the words are read by the rows of one table only."""
    tables = [
        WordTable(Allocation.random(V, 5, 4, seed=0)),
        WordTable(Allocation.random(V, 4, 5, seed=1)),
    ]
    layer = RowEmbedding(tables[1].num_rows, 6)
    if followed is not None:
        layer.word_table = tables[followed]
    words = keras.Input((None,), dtype="int32")
    x = layer(tables[1](words[:, :-1]) // tables[1].num_columns)
    x = keras.layers.GRU(6, return_sequences=True)(x)
    softmax = TwoComponentSoftmax(tables, row_reader="gated")
    model = keras.Model(words, softmax(x, words[:, 1:]))
    model.compile("sgd", loss=NegativeLogLikelihood(), run_eagerly=True)
    return model, layer, tables


def test_a_layer_of_the_user_follows_the_table_that_it_names():
    model, layer, tables = make_functional(followed=1)
    windows = make_windows(32)
    old = [table.allocation for table in tables]
    changes = []
    for _ in range(2):
        callback = ReallocationCallback("likelihood", verbose=0, at_end=True)
        callback.tables = [len(changes)]
        model.optimizer.learning_rate = 0.0
        before = keras.ops.convert_to_numpy(layer.embeddings)
        model.fit(windows, windows[:, 1:], callbacks=[callback], verbose=0)
        after = keras.ops.convert_to_numpy(layer.embeddings)
        changes.append(float(np.abs(after - before).max()))
    assert all(table.allocation != x for table, x in zip(tables, old, strict=True))
    assert changes[0] == 0.0 < changes[1]


def test_a_layer_that_names_no_table():
    model, _, _ = make_functional(followed=None)
    with pytest.raises(ValueError, match=r"attribute `word_table`.*RowEmbedding.*=None"):
        ReallocationCallback().set_model(model)


def test_tables_that_share_an_object():
    table = WordTable(Allocation.random(V, 5, 4, seed=0))
    model = LightRNNModel([table, table], 4, 4)
    model.compile("adam")
    model.build((None, None))
    with pytest.raises(ValueError, match=r"2 tables that uses 1 `WordTable` object"):
        ReallocationCallback().set_model(model)


@pytest.mark.parametrize("tables", [-1, [0, 1.5], [], [True]])
def test_bad_tables(tables):
    with pytest.raises(ValueError, match=r"`tables` must .*tables="):
        ReallocationCallback(tables=tables)


def test_tables_that_the_model_lacks():
    with pytest.raises(ValueError, match=r"indices of the 2 word table.*tables=\[0, 2\]"):
        ReallocationCallback(tables=[0, 2]).set_model(make_model())


def test_the_model_saves_and_loads_after_rounds(tmp_path):
    model = make_model()
    callback = ReallocationCallback(every=[1, 2], verbose=0)
    model.fit(make_windows(), epochs=3, callbacks=[callback], verbose=0)
    assert len(callback.history) == 2
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for table, other in zip(model.word_tables, loaded.word_tables, strict=True):
        assert table.allocation == other.allocation
    np.testing.assert_array_equal(loaded.score(make_windows(4)), model.score(make_windows(4)))
