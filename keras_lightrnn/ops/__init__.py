"""Pure tensor functions of LightRNN, without variables.

Functions with hand-written gradients need TensorFlow or JAX; the others run on every backend.
"""

from keras_lightrnn.ops.fused_log_probs import compute_fused_log_probs
from keras_lightrnn.ops.half_steps import interleave_components, split_half_steps
from keras_lightrnn.ops.log_probs import (
    EMPTY_CELL_LOGIT,
    compute_bias_table,
    compute_row_offsets,
    compute_word_log_probs,
    invert_cells,
)
from keras_lightrnn.ops.logit_terms import BiasTerm, LogitTerm, VectorTerm
from keras_lightrnn.ops.look_up import look_up_word_vectors
from keras_lightrnn.ops.word_ids import cast_word_ids, mark_invalid_ids

__all__ = [
    "EMPTY_CELL_LOGIT",
    "BiasTerm",
    "LogitTerm",
    "VectorTerm",
    "cast_word_ids",
    "compute_bias_table",
    "compute_fused_log_probs",
    "compute_row_offsets",
    "compute_word_log_probs",
    "interleave_components",
    "invert_cells",
    "look_up_word_vectors",
    "mark_invalid_ids",
    "split_half_steps",
]
