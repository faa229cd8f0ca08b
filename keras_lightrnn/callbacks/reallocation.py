"""Callback that moves words in the table during training."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_lightrnn import reallocation
from keras_lightrnn._internal.checks import check_not_negative
from keras_lightrnn._internal.distribution import is_chief, run_on_chief, strategy_scope
from keras_lightrnn._internal.keras_internals import (
    call_takes_training,
    list_layers,
    peek_model,
)
from keras_lightrnn._internal.observed_training import ObservedTraining, expect_no_weights
from keras_lightrnn._internal.run_state import end_broken_runs
from keras_lightrnn._internal.typing import Logs
from keras_lightrnn.callbacks.carried_vectors import compute_changes, list_indexed_weights
from keras_lightrnn.callbacks.executions import count_steps
from keras_lightrnn.callbacks.half_step_statistics import HalfStepStatistics
from keras_lightrnn.callbacks.readiness import check_order, check_ready
from keras_lightrnn.callbacks.round_schedule import RoundSchedule
from keras_lightrnn.callbacks.round_state import RoundState
from keras_lightrnn.callbacks.rounds import Rounds
from keras_lightrnn.layers import TwoComponentSoftmax
from keras_lightrnn.losses import NegativeLogLikelihood
from keras_lightrnn.reallocation import OutputWeights, Proposal, ProposalStatus
from keras_lightrnn.table.allocation import Allocation
from keras_lightrnn.table.word_table import WordTable


class ReallocationCallback(keras.callbacks.Callback):
    """Reallocates words during training, from what the network has learnt about them.

    The hidden states around each word are summed (see `HalfStepStatistics`). In a reallocation
    round an objective proposes an allocation from the sums, which is installed in the `WordTable`
    of the model. Words that move take their vectors along: a shared input vector becomes the mean,
    weighted by counts, of the vectors that its new words had. The same happens to the optimizer's
    slots of that shape (not to the factored ones of Adafactor) and, if the objective says so, to
    the output vectors. A vector that is both (`tied_embedding`) follows its words only if the
    objective says so for output vectors. Weights that are not trainable are included.

    With several tables a round moves words in one table, given the others, and the tables take
    turns. The states are those by which the table predicts, and a word counts for the table by the
    share of the table in its prediction. Sums are kept for one table at a time. `every=[1, 2]`
    gives each of two tables one round.

    If a round raises an error, table, weights and optimizer are unchanged.

    The callback works with any model that has one `TwoComponentSoftmax`, whose word tables all
    layers share. A layer declares the weights that follow words by two properties, `row_weights`
    and `column_weights`: lists of weights whose first axis is the rows, or the columns, of the
    table. `TwoComponentEmbedding` has them. A custom layer that is indexed by rows or columns must
    have them too. In a model with several tables, its attribute `word_table` must say which table
    it follows:

    ```python
    class RowEmbedding(keras.layers.Embedding):
        row_weights = property(lambda self: [self.embeddings])
        column_weights = ()
    ```

    Words count in the sums by their sample weight. Padding, which has weight 0 or is masked, does
    not count. If a model has several outputs with sample weights, only the mask is used. A custom
    model with sample weights must inherit from `keras_lightrnn.models.ObservedTraining`, which
    publishes them, because Keras passes them to losses and metrics only.

    The procedure of the paper starts from a random allocation, trains until validation stops
    improving, reallocates by output costs over the whole corpus, and repeats:

    `ReallocationCallback("likelihood", every="plateau", data=windows)`

    Order of `callbacks`: place it after `EarlyStopping(restore_best_weights=True)` and
    `ModelCheckpoint(save_best_only=True)`, whose metric belongs to the weights before the round,
    and before `BackupAndRestore` and loggers. `fit` raises an error if the order would save or
    restore weights that do not belong to their metric.

    Sums can be turned off between steps: outside of the epochs that need them, the compiled step
    skips them. TensorFlow does not release the memory of compiled step functions, and every `fit`
    with this callback compiles one: the train function (10 MB measured for a small model on a CPU)
    or, with `data`, the evaluation function (5 MB).

    Args:
        objective: `"similarity"` (default), `"likelihood"`, or a
            `keras_lightrnn.reallocation.ReallocationObjective`, such as
            `LikelihoodObjective(solver="auction")`.
        every: When a round takes place. A list of integers: after these epochs, counted from 1.
            The default is after the first epoch, because a round raises perplexity at first and
            later training must make up for it. `"epoch"`: after every epoch. An integer: after that
            many train steps, counted like `num_steps`. `"plateau"`: after an epoch in which
            `monitor` was not lower than its best value since the last round.
        max_rounds: Integer, the largest number of rounds in all calls of `fit` on one model with
            this callback, or `None` (default) for no limit.
        minimum_gain: Float, the smallest decrease in cost, in the unit of the objective, for which
            an allocation is installed. Defaults to 0.
        monitor: The key of the `logs` that `every="plateau"` reads. Defaults to `"val_loss"`.
        data: A dataset, windows that `model.evaluate` takes, or a tuple of windows, targets and
            sample weights, over which states are summed before each round. Such a pass takes a
            third of the time of an epoch, and all its states come from the same weights. `None`
            (default) sums in train steps: those since the last round or, with rounds after epochs,
            those of the epoch. Sums stop when no further round is scheduled.
        verbose: 0 for no output, 1 (default) for a line for each round.
        at_end: Boolean, whether a round takes place even if no training follows in this `fit`:
            after its last epoch, or when training is being stopped. Use it only if another `fit`
            continues the training, because a round without further training makes the model worse.
            (In a single epoch of data of unknown length, no callback knows the last step.)
            Defaults to `False`.
        tables: Index of a table, or a list of indices: the tables in which rounds move words, in
            this order, starting again after the last. `None` (default) for all tables in order.

    Attributes:
        history: A dictionary for each round, with the values of the printed line and, in a model
            with several tables, the index `table` as a float.
        prices: `(R, C)`, the prices of the last solution, from which the next solver starts, or
            `None`. For a model with several tables, a list with one entry for each table.
        num_epochs: Integer, the number of epochs that are finished, including their rounds; `None`
            before the first.
        num_steps: Integer, the number of train steps of the model with this callback, in all epochs
            and calls of `fit`. With data of unknown length, the last execution of an epoch counts
            as `steps_per_execution` steps.

    After a `fit` that raised an error, sums continue until the next `fit` of a `LightRNNModel`, or
    the next `fit` of another model with this callback.

    With another model the callback starts over. `TrainingBackup` and Keras's `BackupAndRestore`
    save its history, prices, steps and schedule.

    The `logs` of an epoch with a round receive `reallocation_cost` (in the unit of the objective:
    nats per word, up to a constant, or the share of variance), `reallocation_cost_before`,
    `reallocation_gap` (if it is certified), `reallocation_moved` (words), `reallocation_seconds`
    and, with several tables, `reallocation_table`, so that later callbacks can log them. Other
    epochs lack them, as they lack `val_loss` where `validation_freq` skips it: a `CSVLogger` writes
    them only if the first epoch has a round. `history` has them all.

    Raises:
        ValueError: in `fit`, if the model is not built or not compiled; if it does not have exactly
            one `TwoComponentSoftmax`, has word tables that the softmax does not have, has no layer
            that declares `row_weights` or `column_weights`, or has a `call` without `training`; if
            `tables` holds an index without a table; if the order of callbacks is wrong; if the
            model cannot be evaluated on `data`; for sample weights that the model does not publish;
            or if the sums are not finite.
        KeyboardInterrupt: if a round is interrupted; weights and table are unchanged.

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
        tables: int | Iterable[int] | None = None,
    ) -> None:
        super().__init__()
        is_number = isinstance(minimum_gain, (int, float, np.integer, np.floating))
        if not (is_number and 0 <= minimum_gain < math.inf):
            raise ValueError(
                "`minimum_gain` must be a number, finite and not negative. Received: "
                f"minimum_gain={minimum_gain!r}."
            )
        self.objective = reallocation.get(objective)
        self.schedule = RoundSchedule(every, max_rounds, monitor)
        if data is not None and self.schedule.counts_steps:
            raise ValueError(
                "With `data`, rounds must follow epochs. Received: every="
                f'{every}, which counts steps. Give `every="epoch"` or a list of epochs, or leave '
                "`data` out."
            )
        if hasattr(data, "__next__"):
            raise ValueError(
                "`data` must be readable in every round. Received: data of type "
                f"{type(data).__name__}, which can be read only once. Give an array or a "
                "`tf.data.Dataset`, for example from `tf.data.Dataset.from_generator`."
            )
        self.minimum_gain = minimum_gain
        self.data = data
        self.verbose = verbose
        self.at_end = at_end
        self.tables = None if tables is None else _read_indices(tables)
        self._rounds = Rounds()
        self._state: RoundState | None = None
        self._softmax: TwoComponentSoftmax | None = None
        self._inputs: list[list[keras.layers.Layer]] = []  # the input layers of each table
        self._num_tables = 1
        self._table = 0  # the index of the table that the next round moves
        self._is_training = False
        self._num_steps_of_epoch = 0  # of the previous epoch
        self._first_step = 0  # of the current execution
        self._num_rounds_before = 0  # at the start of the current epoch

    @property
    def history(self) -> list[dict[str, float]]:
        return self._rounds.history

    @property
    def prices(self) -> np.ndarray | list[np.ndarray | None] | None:
        prices = [self._rounds.prices.get(table) for table in range(self._num_tables)]
        return prices if self._num_tables > 1 else prices[0]

    @property
    def num_epochs(self) -> int | None:
        return self._rounds.num_epochs

    @property
    def num_steps(self) -> int:
        return self._rounds.num_steps

    def set_model(self, model: keras.Model) -> None:
        self._detach()  # an earlier `fit` may have raised
        if model is not peek_model(self):  # the rounds of another model do not apply
            self._rounds = Rounds()
        # Before any `on_train_begin`, because that of a backup restores the rounds.
        super().set_model(model)
        self._rounds.num_epochs = None
        self._rounds.num_steps_before = self._rounds.num_steps
        self._attach()
        self._is_training = False

    def _attach(self) -> None:
        end_broken_runs(self.model)
        layers = list_layers(self.model)
        softmax = _find_softmax(layers)
        check_ready(self.model, "Reallocation", softmax)
        self._num_tables = len(softmax.list_tables())
        self._check_tables()
        inputs = _group_inputs(layers, softmax)
        if self.data is None and not call_takes_training(self.model):
            raise ValueError(
                "Reallocation sums states in train steps, which layers recognize by `training`. "
                "Received: a model whose `call` has no such argument, so that Keras runs its "
                "layers in inference mode. Write `def call(self, inputs, training=None)`, or give "
                "`data`."
            )
        _warn_of_unknown_weights(self.model)
        check_order(
            self,
            "A callback that saves or restores weights must run when the weights match its metric "
            "and epoch.",
            # Rounds after steps precede the validation whose metric these callbacks read.
            earlier=[]
            if self.schedule.counts_steps
            else [
                (keras.callbacks.EarlyStopping, "restore_best_weights"),
                (keras.callbacks.ModelCheckpoint, "save_best_only"),
            ],
            later=[(keras.callbacks.BackupAndRestore, None)],
        )
        vocabulary_size = softmax.word_table.vocabulary_size
        self.objective.check(vocabulary_size)
        units = softmax.row_kernel.shape[-1]
        sums = list(self.objective.sums)
        if self._num_tables > 1:
            sums.append("occurrences")  # the weights of words at the input
        with strategy_scope(self.model):
            statistics = HalfStepStatistics(vocabulary_size, units, sums)
            self._state = RoundState(
                self._rounds, statistics, self.model, self.data is None, self._end_broken_fit
            )
        statistics.is_within_epoch = not self.schedule.counts_steps
        self._softmax = softmax
        self._inputs = inputs
        softmax.observe(self._state)
        self._renew_functions()
        self._table = self._find_turn()
        if self.data is None:
            self._state.sum_table(self._table)

    def _check_tables(self) -> None:
        """Raise `ValueError` unless the model has the tables that the argument `tables` names."""
        if self.tables is not None and max(self.tables) >= self._num_tables:
            raise ValueError(
                f"`tables` must be indices of the {self._num_tables} word table(s) of the model. "
                f"Received: tables={self.tables}. Indices start at 0."
            )

    def _find_turn(self) -> int:
        """Return the index of the table that the next round moves."""
        tables = list(range(self._num_tables)) if self.tables is None else self.tables
        return tables[len(self._rounds.history) % len(tables)]

    def _take_turn(self) -> None:
        """Sum the states of the table that the next round moves."""
        self._table = self._find_turn()
        if self._state is not None and self._state.summed_table is not None:
            self._sum_table(self._table)

    def _sum_table(self, table: int | None) -> None:
        """Make the observed steps sum the states of a table; `None` for no sums."""
        state = self._state
        if state is not None and state.summed_table != table:
            _ = self.model  # on JAX, reading the property copies the state back from the device
            state.sum_table(table)

    def _renew_functions(self) -> None:
        """Compile the functions that contain the observer, or should contain it, again."""
        model = self.model
        if self.data is None:
            model.make_train_function(force=True)
            return
        model.make_test_function(force=True)
        if model.predict_function is not None:  # layers cannot tell it from an evaluation
            model.make_predict_function(force=True)

    def _detach(self) -> None:
        if self._softmax is not None and self._state is not None:
            self._softmax.stop_observing(self._state)
            self._renew_functions()
            expect_no_weights(())
        self._softmax = self._state = None
        self._inputs = []

    def _end_broken_fit(self) -> None:
        if self._is_training:  # not if only attached, manually or by a `fit` about to begin
            self._detach()

    def on_train_begin(self, logs: Logs = None) -> None:
        self._is_training = True
        if self.data is not None:
            try:
                self._evaluate(num_steps=1)
            except (TypeError, ValueError) as error:  # not at the first round, which may be late
                raise ValueError(
                    "`data` must be what the model can be evaluated on. Received: data of type "
                    f"{type(self.data).__name__}, which `model.evaluate` refuses: {error}"
                ) from error
        self._take_turn()  # a backup before this callback has restored the rounds
        self._stop_summing_if_over()

    def on_train_end(self, logs: Logs = None) -> None:
        self._detach()

    def on_test_begin(self, logs: Logs = None) -> None:
        if not self._is_training:  # passed to `evaluate`, which needs no sums
            self._detach()

    def on_predict_begin(self, logs: Logs = None) -> None:
        self.on_test_begin()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        rounds = self._rounds
        if rounds.num_epochs not in (None, epoch):
            raise ValueError(
                "A run must resume after the last epoch whose round is done. Received: a "
                f"backup with the rounds of {rounds.num_epochs} epochs, to start after {epoch}. "
                "Give `ReallocationCallback` before `BackupAndRestore` in `callbacks`, or use "
                "`TrainingBackup`, which writes weights and epoch in one file."
            )
        self._num_rounds_before = len(rounds.history)
        rounds.num_epochs = epoch
        self._take_turn()
        self._stop_summing_if_over()

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._first_step = batch

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        rounds = self._rounds
        steps = count_steps(self, self._first_step, batch)
        before, step = rounds.num_steps, rounds.num_steps_before + steps
        if step <= before:  # the run was resumed within the epoch, after this step
            return
        rounds.num_steps = step
        is_due = self.schedule.is_due_after_step(before, step, len(rounds.history))
        if is_due and not self._is_in_vain(self._is_last_step(steps)):
            self.reallocation_round()
            self._stop_summing_if_over()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        rounds = self._rounds
        number = epoch + 1
        logs = {} if logs is None else logs
        is_due = self.schedule.is_due_after_epoch(number, rounds, logs)
        if is_due and not self._is_in_vain(self._is_last_epoch()):
            self.reallocation_round()
        if len(rounds.history) > self._num_rounds_before:
            record = rounds.history[-1]
            logs.update({f"reallocation_{name}": value for name, value in record.items()})
        if self._state is not None and not self.schedule.counts_steps:
            self._state.statistics.reset()  # a round after an epoch uses only its states
        rounds.num_epochs = number
        self._num_steps_of_epoch = rounds.num_steps - rounds.num_steps_before
        rounds.num_steps_before = rounds.num_steps
        self._stop_summing_if_over()

    def _get_param(self, name: str) -> float:
        """Return a parameter of `fit`, or infinity if it is unknown."""
        return (self.params or {}).get(name) or math.inf

    def _is_last_step(self, step_of_epoch: float) -> bool:
        """Return whether no step follows; an unknown length is that of the previous epoch."""
        num_steps = self._get_param("steps")
        if math.isinf(num_steps):
            num_steps = self._num_steps_of_epoch
        return step_of_epoch == num_steps and self._is_last_epoch()

    def _is_last_epoch(self) -> bool:
        """Return whether the current epoch is the last of this `fit`."""
        return (self._rounds.num_epochs or 0) + 1 >= self._get_param("epochs")

    def _is_in_vain(self, is_last: bool) -> bool:
        """Return whether no training would follow a round that is due, and print a note if so."""
        is_in_vain = not self.at_end and (is_last or self.model.stop_training)
        if is_in_vain and self.verbose and is_chief(self.model):
            print(
                "\nno reallocation round, because no training follows in this `fit` "
                "(`at_end=True` allows it)"
            )
        return is_in_vain

    def _stop_summing_if_over(self) -> None:
        """Stop summing if no further round is scheduled."""
        state, num_epochs = self._state, self._rounds.num_epochs
        if state is None or state.summed_table is None or num_epochs is None:
            return
        is_over = self.schedule.is_over(num_epochs, len(self._rounds.history))
        if not self.schedule.counts_steps and not self.at_end:
            is_over |= self._is_last_epoch()
        if is_over:
            self._sum_table(None)
            state.statistics.reset()

    def reallocation_round(self) -> dict[str, float]:
        """Propose and install an allocation from the sums since the last round or epoch."""
        if self._softmax is None or self._state is None:
            raise ValueError(
                "A reallocation round needs statistics, which are collected during `fit`. "
                "Received: a callback outside of `fit`. Call `fit` with the callback."
            )
        if self.data is None and self._state.summed_table is None:
            raise ValueError(
                "A reallocation round needs statistics, which are collected while a round is "
                "scheduled. Received: no further scheduled round in this `fit`: every="
                f"{self.schedule.every}, max_rounds={self.schedule.max_rounds}, at_end="
                f"{self.at_end}. Schedule more rounds; `at_end=True` sums in the last epoch too."
            )
        start = time.perf_counter()
        model = self.model  # on JAX, this copies its state back from the device
        if self.data is not None:
            self._sum_over_data(self._state)
        index = self._table
        softmax = self._softmax.list_tables()[index]
        table = softmax.word_table
        old = table.allocation
        # All processes take part in the sum over replicas; the chief solves.
        sums = self._state.statistics.read()
        occurrences = sums.pop("occurrences", sums["counts"])
        weights = _read_output_weights(softmax)
        prices = self._rounds.prices.get(index)
        proposal = Proposal.from_dict(
            run_on_chief(
                model, lambda: self.objective.propose(sums, weights, old, prices).to_dict()
            )
        )
        if proposal.status is ProposalStatus.INTERRUPTED:  # solvers return their best so far
            raise KeyboardInterrupt("A reallocation round was interrupted. Nothing was changed.")
        is_gain = proposal.cost_before - proposal.cost > self.minimum_gain
        new = proposal.allocation if is_gain else old
        moved = old.count_moved(new)
        if moved:
            self._install(softmax, self._inputs[index], new, occurrences, sums["counts"])
            self._rounds.best = math.inf
        self._rounds.prices.pop(index, None)
        if proposal.prices is not None:
            self._rounds.prices[index] = proposal.prices
        self._state.statistics.reset()
        record = {
            "cost_before": proposal.cost_before,
            "cost": proposal.cost if is_gain else proposal.cost_before,
            "moved": float(moved),
            "seconds": time.perf_counter() - start,
        }
        if proposal.gap is not None:
            record["gap"] = proposal.gap
        if self._num_tables > 1:
            record["table"] = float(index)
        self._rounds.history.append(record)
        self._take_turn()
        if self.verbose and is_chief(model):
            gap = "" if proposal.gap is None else f" (gap {proposal.gap:.1e})"
            where = f", table {index}" if self._num_tables > 1 else ""
            print(
                f"\nreallocation round {len(self.history)}{where}: cost "
                f"{record['cost_before']:.4f} -> {record['cost']:.4f} {self.objective.unit}{gap}, "
                f"{moved:,} of "
                f"{table.vocabulary_size:,} words moved, {record['seconds']:.1f} s"
                f" [{proposal.status.value}]"
            )
        return record

    def _sum_over_data(self, state: RoundState) -> None:
        """Sum the states of a pass over `data`."""
        state.statistics.reset()
        self._sum_table(self._table)
        try:
            self._evaluate()
        finally:
            self._sum_table(None)

    def _evaluate(self, num_steps: int | None = None) -> None:
        """Evaluate the model on `data`, or on its first batches."""
        data = self.data if isinstance(self.data, tuple) else (self.data,)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self.model.evaluate(x, y, sample_weight=sample_weight, steps=num_steps, verbose=0)

    def _install(
        self,
        softmax: TwoComponentSoftmax,
        inputs: list[keras.layers.Layer],
        new: Allocation,
        occurrences: np.ndarray,
        counts: np.ndarray,
    ) -> None:
        """Move words in the table of a softmax together with their vectors.

        Args:
            softmax: The softmax of that table.
            inputs: The input layers that follow the table.
            new: The new allocation.
            occurrences: `(V,)`, the weights of words in input vectors.
            counts: `(V,)`, the weights of words in output vectors.
        """
        old, optimizer = softmax.word_table.allocation, self.model.optimizer
        outputs, kept = [], set()
        if self.objective.carries_output:
            inside = _list_output_layers(softmax)
            further = {id(x) for table in softmax.further_tables for x in list_layers(table)}
            outputs = [layer for layer in inside if id(layer) not in further]
        elif softmax.tied_embedding is not None:
            # The objective assumes that the kernels stay, also those that are input vectors.
            kept = {id(softmax.row_kernel), id(softmax.column_kernel)}
        changes = []
        for layers, weights in ((inputs, occurrences), (outputs, counts)):
            by_row, by_column = (
                [weight for weight in found if id(weight) not in kept]
                for found in list_indexed_weights(layers, old.shape)
            )
            changes += compute_changes(by_row, optimizer, old.rows, new.rows, weights)
            changes += compute_changes(by_column, optimizer, old.columns, new.columns, weights)
        for weight, values in changes:
            weight.assign(values)
        softmax.word_table.assign(new)


def _read_indices(tables: Any) -> list[int]:
    """Return the argument `tables` as a list, or raise `ValueError`."""
    indices = list(tables) if isinstance(tables, Iterable) else [tables]
    if not indices:
        raise ValueError(
            "`tables` must name at least one word table. Received: tables=[]. Leave it at `None` "
            "for all tables."
        )
    return [check_not_negative("tables", index) for index in indices]


def _warn_of_unknown_weights(model: keras.Model) -> None:
    """Warn if the model may have sample weights that can neither be read nor detected."""
    if isinstance(model, ObservedTraining):
        return
    is_own_class = type(model).train_step is not keras.Model.train_step
    has_own_step = is_own_class or "train_step" in vars(model)
    losses = [loss for loss in keras.tree.flatten(model.loss) if loss is not None]
    # The loss of the package raises an error for weights that the sums did not include.
    is_noticed = not losses or any(isinstance(x, NegativeLogLikelihood) for x in losses)
    if has_own_step or not is_noticed:
        warnings.warn(
            "Reallocation counts every word that is not masked once, because it cannot read the "
            "sample weights of this model. Received: a model of class "
            f"{type(model).__name__}, loss={model.loss!r}"
            f"{', and its own `train_step`' if has_own_step else ''}. To include sample weights, "
            "or if there are none, inherit from `keras_lightrnn.models.ObservedTraining`: `class "
            "ObservedModel(ObservedTraining, keras.Model)`.",
            stacklevel=2,
        )


def _find_softmax(layers: list[keras.layers.Layer]) -> TwoComponentSoftmax:
    """Return the softmax of a model whose tables all layers share, or raise `ValueError`."""
    found = [layer for layer in layers if isinstance(layer, TwoComponentSoftmax)]
    further = {id(table) for layer in found for table in layer.further_tables}
    softmaxes = [layer for layer in found if id(layer) not in further]
    tables = {id(layer) for layer in layers if isinstance(layer, WordTable)}
    own = softmaxes[0].word_tables if softmaxes else []
    if len(softmaxes) != 1 or tables != {id(table) for table in own}:
        raise ValueError(
            "Reallocation needs a model with one `TwoComponentSoftmax`, and no `WordTable` but its "
            f"own: all layers must share them. Received: a model with {len(softmaxes)} of the "
            f"first and {len(tables)} of the second. Give every layer the same `WordTable`; "
            "`keras.models.clone_model` gives each copied layer another table. Embed words of "
            "another vocabulary, as of an encoder, with `keras.layers.Embedding`."
        )
    if len(tables) < len(own):
        raise ValueError(
            "A round moves words in one table and in no other. Received: a softmax of "
            f"{len(own)} tables that uses {len(tables)} `WordTable` object(s). Give it a "
            "`WordTable` for each table."
        )
    return softmaxes[0]


def _list_output_layers(softmax: TwoComponentSoftmax) -> list[keras.layers.Layer]:
    """Return a softmax and the layers in it, without an embedding that its kernels are tied to."""
    tied = softmax.tied_embedding
    inputs = set() if tied is None else {id(layer) for layer in list_layers(tied)}
    return [layer for layer in list_layers(softmax) if id(layer) not in inputs]


def _group_inputs(
    layers: list[keras.layers.Layer], softmax: TwoComponentSoftmax
) -> list[list[keras.layers.Layer]]:
    """Return the input layers of each table of a softmax, or raise `ValueError`."""
    inside = {id(layer) for layer in _list_output_layers(softmax)}
    inputs = [layer for layer in layers if id(layer) not in inside]
    declared = [x for x in inputs if hasattr(x, "row_weights") or hasattr(x, "column_weights")]
    if not declared:
        raise ValueError(
            "Reallocation needs an input layer whose vectors follow the words that move: one with "
            "the properties `row_weights` and `column_weights`, such as `TwoComponentEmbedding`. "
            "Received: a model without one. Add the properties to the layer that looks up vectors "
            "of rows or columns: lists of its weights whose first axis is the rows, or the "
            "columns. If no input depends on cells, let one layer have them as empty lists."
        )
    tables = softmax.word_tables
    if len(tables) == 1:
        return [declared]
    for layer in declared:
        if not any(getattr(layer, "word_table", None) is table for table in tables):
            raise ValueError(
                "In a model with several word tables, an input layer with `row_weights` or "
                "`column_weights` must say which table it follows, by its attribute `word_table`. "
                f"Received: the layer {layer.name!r} (of type {type(layer).__name__}), with "
                f"word_table={getattr(layer, 'word_table', None)!r}."
            )
    return [[layer for layer in declared if layer.word_table is table] for table in tables]


def _read_output_weights(softmax: TwoComponentSoftmax) -> OutputWeights:
    arrays: list[Any] = [
        None if weight is None else ops.convert_to_numpy(weight)
        for weight in (
            softmax.row_kernel,
            softmax.row_bias,
            softmax.column_kernel,
            softmax.column_bias,
        )
    ]
    return OutputWeights(*arrays)
