"""Learning the table: moving words to the cells where the network predicts them best."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
from keras import ops
from scipy import sparse

from keras_lightrnn import assignment
from keras_lightrnn.allocation import Allocation
from keras_lightrnn.callbacks.half_step_statistics import HalfStepStatistics
from keras_lightrnn.callbacks.round_state import RoundState
from keras_lightrnn.distribution import is_chief, run_on_chief, strategy_scope
from keras_lightrnn.layers import TwoComponentEmbedding, TwoComponentSoftmax
from keras_lightrnn.word_table import WordTable


class ReallocationCallback(keras.callbacks.Callback):
    """Reallocates words after epochs: the network stays fixed, the table takes the least cost.

    During training the hidden half-steps before each word are summed (see
    `HalfStepStatistics`). After an epoch the assignment problem that they define is solved,
    and the allocation found is installed in the one `WordTable` of the model. A shared input
    vector becomes the mean, weighted by counts, of the vectors that its words had, and so do
    the optimizer's slots of it; output weights keep theirs.

    Everything that can fail comes before the first change: when a round raises, table, weights
    and optimizer are as training left them.

    Works with any model that has one `TwoComponentSoftmax`. The sums are taken with the words
    as the layer sees them: padding of sample weight zero counts as occurrences of its word.

    Args:
        solver: Whatever `keras_lightrnn.assignment.get` takes: `"alternating"` (default),
            `"auction"` for a certified gap near zero, `"exact"` for small vocabularies, or a
            solver.
        every: Integer, epochs from one round to the next. Counted from the first epoch of the
            whole training, so that a resumed `fit(initial_epoch=...)` keeps the schedule.
        start: Integer, the first epoch (from 1) after which there may be a round.
        max_rounds: Integer, or `None` for no limit.
        minimum_gain: Float, nats per word by which the cost must fall for an allocation to be
            installed.
        verbose: 0 for silence, 1 for a line a round.

    Attributes:
        history: A dictionary a round, with what the line says.
        prices: `(R, C)`, what the last solution ended with and the next starts from, or `None`.
        num_epochs: Epochs whose round, if one was due, is done; `None` before the first.

    History, prices and schedule are part of what `TrainingBackup` and Keras's `BackupAndRestore`
    save.

    `logs` receive `reallocation_cost` (nats per word, up to a constant),
    `reallocation_cost_before`, `reallocation_gap` (nats per word, certified),
    `reallocation_moved` (words) and `reallocation_seconds`, so that callbacks after this one
    can log them.

    Raises:
        ValueError: in `fit`, if the model has no or several word tables, or the sums are not
            finite.

    Example:

    >>> from keras_lightrnn import LightRNNModel
    >>> model = LightRNNModel(30, embedding_dim=4, units=4)
    >>> model.compile("adam")
    >>> windows = np.random.default_rng(0).integers(30, size=(32, 6))
    >>> callback = ReallocationCallback("alternating", verbose=0)
    >>> history = model.fit(windows, epochs=2, callbacks=[callback], verbose=0)
    >>> len(callback.history), "reallocation_moved" in history.history
    (2, True)

    Reference:
        Li et al., "LightRNN", NIPS 2016, [arXiv:1610.09893](https://arxiv.org/abs/1610.09893),
        section 3.2.
    """

    def __init__(
        self,
        solver: Any = "alternating",
        every: int = 1,
        start: int = 1,
        max_rounds: int | None = None,
        minimum_gain: float = 0.0,
        verbose: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("every", every), ("start", start), ("max_rounds", max_rounds)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(
                    f"`{name}` must be a positive integer. Received: {name}={value!r}."
                )
        if not np.isfinite(minimum_gain) or minimum_gain < 0:
            raise ValueError(
                "`minimum_gain` must be finite and not negative. Received: "
                f"minimum_gain={minimum_gain}."
            )
        self.solver = assignment.get(solver)
        self.every = every
        self.start = start
        self.max_rounds = max_rounds
        self.minimum_gain = minimum_gain
        self.verbose = verbose
        self.history: list[dict[str, float]] = []
        self.prices: np.ndarray | None = None
        self.num_epochs: int | None = None
        self._state: RoundState | None = None
        self._statistics: HalfStepStatistics | None = None
        self._softmax: TwoComponentSoftmax | None = None
        self._is_training = False

    def set_model(self, model: Any) -> None:
        # Before any callback's `on_train_begin`: that of a backup brings our state back.
        super().set_model(model)
        self._detach()  # an earlier `fit` may have ended by an exception
        self._attach()
        self._is_training = False
        self.num_epochs = None

    def _attach(self) -> None:
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
        if not softmaxes[0].built:
            raise ValueError(
                "Reallocation needs a model that is built. Received: a model without weights. Call "
                "it on a batch, or `model.build`, before `fit`."
            )
        self._softmax = softmaxes[0]
        self._embeddings = [x for x in layers if isinstance(x, TwoComponentEmbedding)]
        table = self._softmax.word_table
        units = self._softmax.row_kernel.shape[-1]
        with strategy_scope(self.model):
            self._statistics = HalfStepStatistics(table.vocabulary_size, units)
        self._state = RoundState(self, self._statistics)
        self._softmax.observe(self._state)
        self.model.train_function = None  # one made without the observer is stale

    def _detach(self) -> None:
        if self._softmax is not None and self._state is not None:
            self._softmax.stop_observing(self._state)
            self.model.train_function = None
        self._softmax = self._state = self._statistics = None

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
        self.num_epochs = epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        number = epoch + 1
        is_due = number >= self.start and (number - self.start) % self.every == 0
        is_left = self.max_rounds is None or len(self.history) < self.max_rounds
        if is_due and is_left:
            record = self.reallocation_round()
            if logs is not None:
                logs.update({f"reallocation_{name}": value for name, value in record.items()})
        self.num_epochs = number
        if self._statistics is not None:
            self._statistics.reset()  # every round sees the states of one epoch

    def reallocation_round(self) -> dict[str, float]:
        """Solve and install now, from what was summed since the last epoch began."""
        if self._softmax is None or self._statistics is None:
            raise ValueError(
                "A reallocation round needs statistics, which are collected during `fit`. "
                "Received: a callback that no `fit` is running with."
            )
        start = time.perf_counter()
        softmax, table = self._softmax, self._softmax.word_table
        old = table.allocation
        # To sum over replicas is the work of all processes; to solve, of one.
        sums = self._statistics.read()

        def solve() -> tuple[float, assignment.AssignmentSolution]:
            problem = _make_problem(softmax, *sums)
            solution = self.solver.solve(problem, initial=old, prices=self.prices)
            return problem.compute_cost(old), solution

        cost_before, solution = run_on_chief(self.model, solve)
        counts = sums[-1]
        num_words = float(counts.sum(dtype=np.float64))
        cost_before /= num_words
        cost = solution.primal_cost / num_words
        new = solution.allocation if cost_before - cost > self.minimum_gain else old
        moved = old.count_moved(new)
        if moved:
            self._install(table, old, new, counts)
        self.prices = solution.prices
        record = {
            "cost_before": cost_before,
            "cost": cost if new is solution.allocation else cost_before,
            "gap": solution.duality_gap / num_words,
            "moved": float(moved),
            "seconds": time.perf_counter() - start,
        }
        self.history.append(record)
        if self.verbose and is_chief(self.model):
            print(
                f"\nreallocation round {len(self.history)}: cost {record['cost_before']:.4f} -> "
                f"{record['cost']:.4f} nats/word (gap {record['gap']:.1e}), {moved:,} of "
                f"{table.vocabulary_size:,} words moved, {record['seconds']:.1f} s"
                f" [{solution.status}]"
            )
        return record

    def _install(
        self, table: WordTable, old: Allocation, new: Allocation, counts: np.ndarray
    ) -> None:
        changes = []
        for embedding in self._embeddings:
            for variable, old_groups, new_groups in (
                (embedding.row_embeddings, old.rows, new.rows),
                (embedding.column_embeddings, old.columns, new.columns),
            ):
                for weight in (variable, *_find_slots(self.model.optimizer, variable)):
                    values = ops.convert_to_numpy(weight)
                    changes.append((weight, carry_vectors(values, old_groups, new_groups, counts)))
        for weight, values in changes:
            weight.assign(values)
        table.assign(new)


def _make_problem(
    softmax: TwoComponentSoftmax, column_sums: np.ndarray, row_sums: np.ndarray, counts: np.ndarray
) -> assignment.AssignmentProblem:
    """Return the problem that the sums and the output weights define."""
    num_nan = int(np.isnan(column_sums).sum() + np.isnan(row_sums).sum())
    if not (np.isfinite(column_sums).all() and np.isfinite(row_sums).all() and counts.any()):
        raise ValueError(
            "A reallocation round needs finite sums over at least one word. Received: "
            f"{num_nan} sums that are NaN, {counts.sum():.0f} words. Table and weights are "
            "unchanged. Lower the learning rate or clip gradients if the loss is NaN."
        )
    sides = []
    for sums, kernel, bias in (
        (column_sums, softmax.row_kernel, softmax.row_bias),
        (row_sums, softmax.column_kernel, softmax.column_bias),
    ):
        vectors = ops.convert_to_numpy(kernel)
        if bias is not None:
            sums = np.concatenate([sums, counts[:, None]], axis=1)
            vectors = np.concatenate([vectors, ops.convert_to_numpy(bias)[:, None]], axis=1)
        sides += [sums, vectors]
    return assignment.AssignmentProblem.from_factors(*sides, counts=counts)


def carry_vectors(
    vectors: np.ndarray, old_groups: np.ndarray, new_groups: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return shared vectors for new groups: means of what their words had, weighted by counts.

    Args:
        vectors: `(R, D)`, one vector a group.
        old_groups: `(V,)`, the group of each word until now.
        new_groups: `(V,)`, its group from now on.
        counts: `(V,)`, occurrences of each word.

    Returns:
        `(R, D)` of the type of `vectors`. A group none of whose words occurs keeps its vector.

    Example:

    >>> vectors = np.array([[0.0], [4.0]])
    >>> carry_vectors(vectors, [0, 0, 1], [0, 1, 1], counts=[1, 1, 3]).ravel().tolist()
    [0.0, 3.0]
    """
    size = len(vectors)
    flow = sparse.csr_matrix((counts, (new_groups, old_groups)), shape=(size, size))
    totals = np.asarray(flow.sum(axis=1)).ravel()
    means = (flow @ vectors.astype(np.float64)) / np.maximum(totals, 1e-30)[:, None]
    return np.where(totals[:, None] > 0, means, vectors).astype(vectors.dtype)


def _find_slots(optimizer: Any, variable: Any) -> list[Any]:
    """Return the optimizer's variables that shadow a weight: moments and the like."""
    if optimizer is None:
        return []
    prefix = variable.path.replace("/", "_") + "_"
    return [
        slot
        for slot in optimizer.variables
        if slot.name.startswith(prefix) and slot.shape == variable.shape
    ]
