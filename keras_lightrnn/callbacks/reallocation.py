"""Learning the table while the network is trained."""

from __future__ import annotations

import math
import time
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn import reallocation
from keras_lightrnn._internal.distribution import is_chief, run_on_chief, strategy_scope
from keras_lightrnn._internal.run_state import end_broken_runs
from keras_lightrnn.callbacks.carried_vectors import compute_changes
from keras_lightrnn.callbacks.executions import count_steps
from keras_lightrnn.callbacks.half_step_statistics import HalfStepStatistics
from keras_lightrnn.callbacks.readiness import check_ready
from keras_lightrnn.callbacks.round_schedule import RoundSchedule
from keras_lightrnn.callbacks.round_state import RoundState, ShownStep
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.reallocation import OutputWeights
from keras_lightrnn.table.allocation import Allocation
from keras_lightrnn.table.word_table import WordTable


class ReallocationCallback(keras.callbacks.Callback):
    """Reallocates words in the course of training, by what the network has learnt of them.

    The hidden half-steps around each word are summed (see `HalfStepStatistics`). In a round of
    reallocation an objective proposes an allocation from the sums, which is installed in the one
    `WordTable` of the model. A shared input vector becomes the mean, weighted by counts, of the
    vectors that its words had, and so do the optimizer's slots of it (those of its shape:
    factored ones of Adafactor stay), and, if the objective says so, the output vectors.

    Everything that can fail comes before the first change: when a round raises, table, weights
    and optimizer are as training left them.

    Works with any model that has one `TwoComponentSoftmax`. In the sums a word counts as often as
    its sample weight says; padding, of weight 0 or masked, does not count. Of a model with weights
    for each of several outputs the mask alone is looked at.

    The procedure of the paper, from a random allocation, trained until validation no longer
    gains, reallocated by output costs over the whole corpus, and so on:

    `ReallocationCallback("likelihood", every="plateau", data=windows)`

    Args:
        objective: `"similarity"` (default), `"likelihood"`, or a
            `keras_lightrnn.reallocation.ReallocationObjective`, such as
            `LikelihoodObjective(solver="auction")`.
        every: When there is a round. A list of integers: after these epochs, from 1 and as `fit`
            numbers them; by default after the first, for a round costs perplexity at once and
            training must earn it back. `"epoch"`: after every epoch. An integer: after every so
            many train steps, counted as `num_steps` are. `"plateau"`: after an epoch in which
            `monitor` was no lower than in the best one since the last round.
        max_rounds: Integer, in all that `fit` is called on one model with this callback, or `None`
            for no limit.
        minimum_gain: Float, by how much the cost must fall, in the unit of the objective, for an
            allocation to be installed.
        monitor: What `every="plateau"` looks at in the `logs`.
        data: A dataset, windows that `model.evaluate` takes, or a tuple of those, their targets
            and sample weights, to be summed over in a pass of its own before each round. `None`
            sums in the train steps since the last round or, with rounds after
            epochs, in those of the epoch, as long as there is another round to come. A pass costs
            a third of an epoch, and its states are those of one network.
        verbose: 0 for silence, 1 for a line a round.
        at_end: Boolean, whether there is a round even if no training follows in this `fit`: after
            its last epoch, or when training is being stopped. Only for training that goes on in
            another `fit`: the model that this one leaves is worse than its last epoch was. (Of
            a single epoch of data of unknown length no callback knows the last step.)

    Attributes:
        history: A dictionary a round, with what the line says.
        prices: `(R, C)`, what the last solution ended with and the next starts from, or `None`.
        num_epochs: Epochs whose round, if one was due, is done; `None` before the first.
        num_steps: Train steps of the model with this callback, in all epochs and every `fit`. Of
            data of unknown length the last of several `steps_per_execution` counts in full.

    Words that move take their vectors along, those of layers that are not trainable too.

    A `fit` that ends by an exception leaves the sums on. The next `fit` of a `LightRNNModel` ends
    them; of other models, the next with this callback.

    Given to another model, it starts afresh. History, prices, steps and schedule are part of what
    `TrainingBackup` and Keras's `BackupAndRestore` save.

    In `callbacks` it belongs after `EarlyStopping` and `ModelCheckpoint` where these go by a metric
    of validation, which is that of the network before the round; and before what logs, and
    `TrainingBackup` or `BackupAndRestore`.

    `logs` of an epoch with a round receive `reallocation_cost` (in the unit of the objective: nats
    per word, up to a constant, or the share of variance), `reallocation_cost_before`,
    `reallocation_gap` (where it is certified), `reallocation_moved` (words) and
    `reallocation_seconds`, so that callbacks after this one can log them. Other epochs lack them,
    as they lack `val_loss` where `validation_freq` leaves it out: a `CSVLogger` writes them only
    if the first epoch has a round. `history` has them all.

    Raises:
        ValueError: in `fit`, if the model is not built or not compiled, has no or several word
            tables, or a `call` without `training`; or if the sums are not finite.
        KeyboardInterrupt: if a round is interrupted; weights and table are as they were.

    Example:

    >>> from keras_lightrnn import LightRNNModel
    >>> model = LightRNNModel(30, embedding_dim=4, units=4)
    >>> model.compile("adam")
    >>> windows = np.random.default_rng(0).integers(30, size=(32, 6))
    >>> callback = ReallocationCallback(verbose=0)
    >>> history = model.fit(windows, epochs=2, callbacks=[callback], verbose=0)
    >>> len(callback.history), callback.history[0]["cost"] <= callback.history[0]["cost_before"]
    (1, True)

    Reference:
        Li et al., "LightRNN", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893),
        section 3.2.
    """

    def __init__(
        self,
        objective: Any = "similarity",
        every: Any = (1,),
        max_rounds: int | None = None,
        minimum_gain: float = 0.0,
        monitor: str = "val_loss",
        data: Any = None,
        verbose: int = 1,
        at_end: bool = False,
    ) -> None:
        super().__init__()
        if not np.isfinite(minimum_gain) or minimum_gain < 0:
            raise ValueError(
                "`minimum_gain` must be finite and not negative. Received: "
                f"minimum_gain={minimum_gain}."
            )
        self.objective = reallocation.get(objective)
        self.schedule = RoundSchedule(every, max_rounds, monitor)
        if data is not None and self.schedule.counts_steps:
            raise ValueError(
                "A pass over `data` belongs between two epochs. Received: every="
                f'{every}, which counts steps. Give `every="epoch"` or a list of epochs, or no '
                "`data`."
            )
        if hasattr(data, "__next__"):
            raise ValueError(
                "`data` must be what can be read in every round. Received: data of type "
                f"{type(data).__name__}, which can be read once. Give an array or a "
                "`tf.data.Dataset`, such as `tf.data.Dataset.from_generator` makes."
            )
        self.minimum_gain = minimum_gain
        self.data = data
        self.verbose = verbose
        self.at_end = at_end
        self.history: list[dict[str, float]] = []
        self.prices: np.ndarray | None = None
        self.num_epochs: int | None = None
        self._state: RoundState | None = None
        self._softmax: TwoComponentSoftmax | None = None
        self._is_training = False
        self.num_steps = 0
        self._num_steps_of_epoch = 0  # of the last one
        self._first_step = 0  # of the execution that runs
        # When the epoch that runs began.
        self.num_steps_before = self._num_rounds_before = 0

    def set_model(self, model: Any) -> None:
        self._detach()  # an earlier `fit` may have ended by an exception
        if model is not self._model:  # what was learnt with another one says nothing of this one
            self.history, self.prices, self.num_steps = [], None, 0
            self.schedule.start_over()
        # Before any callback's `on_train_begin`: that of a backup brings our state back.
        super().set_model(model)
        self._attach()
        self._is_training = False
        self.num_epochs = None
        self.num_steps_before = self.num_steps

    def _attach(self) -> None:
        end_broken_runs(self.model)
        layers = list(self.model._flatten_layers())
        softmaxes = [layer for layer in layers if isinstance(layer, TwoComponentSoftmax)]
        tables = {id(layer): layer for layer in layers if isinstance(layer, WordTable)}
        if len(softmaxes) != 1 or len(tables) != 1:
            raise ValueError(
                "Reallocation needs a model with one `TwoComponentSoftmax` whose `WordTable` all "
                f"layers share. Received: a model with {len(softmaxes)} of the first and "
                f"{len(tables)} of the second. Give every layer the same `WordTable`; "
                "`keras.models.clone_model` gives each copied layer a table of its own."
            )
        check_ready(self.model, "Reallocation", softmaxes[0])
        if self.data is None and not getattr(self.model, "_call_has_training_arg", True):
            raise ValueError(
                "Reallocation sums in train steps, which layers know by `training`. Received: a "
                "model whose `call` has no such argument: Keras runs its layers as in inference. "
                "Write `def call(self, inputs, training=None)`, or give `data` to sum over."
            )
        self.objective.check(softmaxes[0].word_table.vocabulary_size)
        self._softmax = softmaxes[0]
        self._embeddings = [x for x in layers if isinstance(x, TwoComponentEmbedding)]
        table = self._softmax.word_table
        units = self._softmax.row_kernel.shape[-1]
        with strategy_scope(self.model):
            statistics = HalfStepStatistics(table.vocabulary_size, units, self.objective.sums)
        statistics.is_within_epoch = not self.schedule.counts_steps
        self._state = RoundState(self, statistics)
        self._state.is_summing = self.data is None
        self._softmax.observe(self._state)
        self._shown_step = ShownStep.use(self.model, "train_step")
        self.model.train_function = None  # one made without the observer is stale

    def _detach(self) -> None:
        if self._softmax is not None and self._state is not None:
            self._softmax.stop_observing(self._state)
            self._shown_step.undo()
            self.model.train_function = None
        self._softmax = self._state = None

    def _end_broken_fit(self) -> None:
        if self._is_training:  # and not only attached, by hand or by a `fit` that has yet to begin
            self._detach()

    def on_train_begin(self, logs: Any = None) -> None:
        self._is_training = True

    def on_train_end(self, logs: Any = None) -> None:
        self._detach()

    def on_test_begin(self, logs: Any = None) -> None:
        if not self._is_training:  # given to `evaluate`, where there is nothing to do
            self._detach()

    def on_predict_begin(self, logs: Any = None) -> None:
        self.on_test_begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.num_epochs not in (None, epoch):
            raise ValueError(
                "A run must be taken up after the epoch whose round it has done. Received: a "
                f"backup with the rounds of {self.num_epochs} epochs, to start after {epoch}. Give "
                "`ReallocationCallback` before `BackupAndRestore` in `callbacks`, or use "
                "`TrainingBackup`, which writes weights and epoch in one file."
            )
        self._num_rounds_before = len(self.history)
        self.num_epochs = epoch
        # A run that is taken up may have had its last round; nothing is compiled yet.
        self._stop_summing_if_over()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._first_step = batch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        steps = count_steps(self, self._first_step, batch)
        before, step = self.num_steps, self.num_steps_before + steps
        if step <= before:  # of a run that is taken up within the epoch, and had this step
            return
        self.num_steps = step
        is_due = self.schedule.is_due_after_step(before, step, len(self.history))
        if is_due and not self._is_in_vain(self._is_last_step(steps)):
            self.reallocation_round()
            if self._stop_summing_if_over():
                self.model.make_train_function(force=True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        number = epoch + 1
        logs = {} if logs is None else logs
        is_due = self.schedule.is_due_after_epoch(number, len(self.history), logs)
        if is_due and not self._is_in_vain(self._is_last_epoch()):
            self.reallocation_round()
        if len(self.history) > self._num_rounds_before:
            record = self.history[-1]
            logs.update({f"reallocation_{name}": value for name, value in record.items()})
        if self._state is not None and not self.schedule.counts_steps:
            self._state.statistics.reset()  # a round after an epoch sees the states of that epoch
        self.num_epochs = number
        self._num_steps_of_epoch = self.num_steps - self.num_steps_before
        self.num_steps_before = self.num_steps
        if self._stop_summing_if_over():
            self.model.make_train_function(force=True)

    def _get_param(self, name: str) -> float:
        """Return what `fit` told its callbacks, or infinity where it could not say."""
        return (self.params or {}).get(name) or math.inf

    def _is_last_step(self, step_of_epoch: float) -> bool:
        """Return whether no step follows this one; of unknown data, by the epoch before."""
        num_steps = self._get_param("steps")
        if math.isinf(num_steps):
            num_steps = self._num_steps_of_epoch
        return step_of_epoch == num_steps and self._is_last_epoch()

    def _is_last_epoch(self) -> bool:
        """Return whether the epoch that runs is the last of this `fit`."""
        return (self.num_epochs or 0) + 1 >= self._get_param("epochs")

    def _is_in_vain(self, is_last: bool) -> bool:
        """Return whether no training would follow a round that is due; say so."""
        is_in_vain = not self.at_end and (is_last or self.model.stop_training)
        if is_in_vain and self.verbose and is_chief(self.model):
            print(
                "\nno reallocation round: no training follows in this `fit` to earn it back "
                "(`at_end=True` makes one)"
            )
        return is_in_vain

    def _stop_summing_if_over(self) -> bool:
        """Have steps sum no more if no round will read it; return whether that is news."""
        state = self._state
        if state is None or not state.is_summing or self.num_epochs is None:
            return False
        is_over = self.schedule.is_over(self.num_epochs, len(self.history))
        if not self.schedule.counts_steps and not self.at_end:
            is_over |= self._is_last_epoch()
        if is_over:
            state.is_summing = False
            state.statistics.reset()
            return True
        return False

    def reallocation_round(self) -> dict[str, float]:
        """Propose and install now, from what was summed since the last round or epoch began."""
        if self._softmax is None or self._state is None:
            raise ValueError(
                "A reallocation round needs statistics, which are collected during `fit`. "
                "Received: a callback that no `fit` is running with."
            )
        if self.data is None and not self._state.is_summing:
            raise ValueError(
                "A reallocation round needs statistics, which are collected as long as there is a "
                "round to come. Received: a callback without one in this `fit`: every="
                f"{self.schedule.every}, max_rounds={self.schedule.max_rounds}, at_end="
                f"{self.at_end}. Give it the rounds that you want; `at_end=True` sums in the last "
                "epoch too."
            )
        start = time.perf_counter()
        model = self.model  # on JAX, to ask for it brings its state back from the device
        if self.data is not None:
            self._sum_over_data(self._softmax, self._state)
        table = self._softmax.word_table
        old = table.allocation
        # To sum over replicas is the work of all processes; to solve, of one.
        sums = self._state.statistics.read()
        weights = _read_output_weights(self._softmax)
        proposal = run_on_chief(
            model, lambda: self.objective.propose(sums, weights, old, self.prices)
        )
        if proposal.status == "interrupted":  # a solver hands in the best that it has
            raise KeyboardInterrupt("in a reallocation round; nothing was changed")
        is_gain = proposal.cost_before - proposal.cost > self.minimum_gain
        new = proposal.allocation if is_gain else old
        moved = old.count_moved(new)
        if moved:
            self._install(table, old, new, sums["counts"])
            self.schedule.start_over()
        self.prices = proposal.prices
        self._state.statistics.reset()
        record = {
            "cost_before": proposal.cost_before,
            "cost": proposal.cost if is_gain else proposal.cost_before,
            "moved": float(moved),
            "seconds": time.perf_counter() - start,
        }
        if proposal.gap is not None:
            record["gap"] = proposal.gap
        self.history.append(record)
        if self.verbose and is_chief(model):
            gap = "" if proposal.gap is None else f" (gap {proposal.gap:.1e})"
            print(
                f"\nreallocation round {len(self.history)}: cost {record['cost_before']:.4f} -> "
                f"{record['cost']:.4f} {self.objective.unit}{gap}, {moved:,} of "
                f"{table.vocabulary_size:,} words moved, {record['seconds']:.1f} s"
                f" [{proposal.status}]"
            )
        return record

    def _sum_over_data(self, softmax: TwoComponentSoftmax, state: RoundState) -> None:
        """Replace the sums of the train steps by those of a pass with the network as it is."""
        state.statistics.reset()
        softmax.stop_observing(state)
        softmax.observe(state, in_training=False)
        state.is_summing = True
        shown_step = ShownStep.use(self.model, "test_step")
        self.model.test_function = None
        try:
            data = self.data if isinstance(self.data, tuple) else (self.data,)
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            self.model.evaluate(x, y, sample_weight=sample_weight, verbose=0)
        finally:
            state.is_summing = False
            softmax.stop_observing(state)
            softmax.observe(state)
            shown_step.undo()
            self.model.test_function = None

    def _install(
        self, table: WordTable, old: Allocation, new: Allocation, counts: np.ndarray
    ) -> None:
        by_row = [embedding.row_embeddings for embedding in self._embeddings]
        by_column = [embedding.column_embeddings for embedding in self._embeddings]
        if self.objective.carries_output:
            row_kernel, row_bias, column_kernel, column_bias = _list_output_weights(self._softmax)
            by_row += [row_kernel, row_bias]
            by_column += [column_kernel, column_bias]
        changes = [
            *compute_changes(by_row, self.model.optimizer, old.rows, new.rows, counts),
            *compute_changes(by_column, self.model.optimizer, old.columns, new.columns, counts),
        ]
        for weight, values in changes:
            weight.assign(values)
        table.assign(new)


def _list_output_weights(softmax: Any) -> tuple[Any, Any, Any, Any]:
    return softmax.row_kernel, softmax.row_bias, softmax.column_kernel, softmax.column_bias


def _read_output_weights(softmax: Any) -> OutputWeights:
    arrays: list[Any] = [
        None if weight is None else ops.convert_to_numpy(weight)
        for weight in _list_output_weights(softmax)
    ]
    return OutputWeights(*arrays)
