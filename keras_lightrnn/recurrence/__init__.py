"""Recurrent cells, each defined once, and the stack that runs them."""

from keras_lightrnn.recurrence.kinds import Recurrence, get_recurrence, register_recurrence
from keras_lightrnn.recurrence.stack import RecurrentStack

__all__ = ["Recurrence", "RecurrentStack", "get_recurrence", "register_recurrence"]
