from __future__ import annotations

import math

import pytest

from keras_lightrnn.callbacks.round_schedule import RoundSchedule
from keras_lightrnn.callbacks.rounds import Rounds


def list_due_epochs(schedule, losses, rounds=None):
    rounds, due = rounds or Rounds(), []
    for epoch, loss in enumerate(losses, start=1):
        if schedule.is_due_after_epoch(epoch, rounds, {"val_loss": loss}):
            due.append(epoch)
            rounds.history.append({})
    return due


@pytest.mark.parametrize(
    ("every", "max_rounds", "expected"),
    [
        ("epoch", None, [1, 2, 3, 4, 5]),
        ("epoch", 2, [1, 2]),
        ([2, 5, 9], None, [2, 5]),
        ([2, 5], 1, [2]),
        ("plateau", None, [3, 5]),
        (1, None, []),
    ],
)
def test_epochs(every, max_rounds, expected):
    schedule = RoundSchedule(every, max_rounds)
    assert list_due_epochs(schedule, [5.0, 4.0, 4.0, 3.0, 3.5]) == expected


def test_steps_count_over_the_whole_training():
    schedule = RoundSchedule(3, max_rounds=2)
    due = []
    for before, step in [(0, 1), (1, 4), (4, 5), (5, 6), (6, 6), (6, 30)]:
        if schedule.is_due_after_step(before, step, len(due)):
            due.append(step)
    assert due == [4, 6]
    assert not RoundSchedule("epoch").is_due_after_step(0, 30, 0)


@pytest.mark.parametrize(
    ("every", "max_rounds", "expected"),
    [
        ((1,), None, [False, True, True, True]),
        ([1, 3], None, [False, False, False, True]),
        ([1, 3], 1, [False, True, True, True]),  # with a round an epoch
        ("epoch", 2, [False, False, True, True]),
        ("plateau", None, [False] * 4),
        (7, 3, [False, False, False, True]),
    ],
)
def test_is_over_once_no_round_can_come(every, max_rounds, expected):
    schedule = RoundSchedule(every, max_rounds)
    assert [schedule.is_over(number, num_rounds=number) for number in range(4)] == expected


def test_epochs_without_the_monitor_are_no_plateau():
    schedule, rounds = RoundSchedule("plateau"), Rounds()
    assert list_due_epochs(schedule, [3.0], rounds) == []
    with pytest.warns(UserWarning, match=r"'val_loss' in the logs.*\['loss'\].*follows this epoch"):
        assert not schedule.is_due_after_epoch(2, rounds, {"loss": 4.0})
    assert schedule.is_due_after_epoch(3, rounds, {"val_loss": 3.0})


def test_a_plateau_is_sought_anew_after_a_round():
    schedule, rounds = RoundSchedule("plateau"), Rounds()
    assert list_due_epochs(schedule, [3.0, 3.0], rounds) == [2]
    rounds.best = math.inf
    # A round raises the loss at first, which is no reason for another.
    assert list_due_epochs(schedule, [5.0, 4.0, 4.0], rounds) == [3]


def test_nan_is_a_plateau():
    assert list_due_epochs(RoundSchedule("plateau"), [5.0, float("nan"), 4.0]) == [2]


@pytest.mark.parametrize("every", [0, -3, 1.5, True, "week", [], [0], ["epoch"], None])
def test_bad_every(every):
    with pytest.raises(ValueError, match="`every` must be"):
        RoundSchedule(every)


@pytest.mark.parametrize("max_rounds", [0, 1.5, True])
def test_bad_max_rounds(max_rounds):
    with pytest.raises(ValueError, match="`max_rounds` must be"):
        RoundSchedule(max_rounds=max_rounds)
