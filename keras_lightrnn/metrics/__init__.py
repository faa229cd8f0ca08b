"""Metrics of language models and of recommendation."""

from keras_lightrnn.metrics.perplexity import Perplexity
from keras_lightrnn.metrics.ranks import NDCG, MeanReciprocalRank, RecallAtK

__all__ = ["NDCG", "MeanReciprocalRank", "Perplexity", "RecallAtK"]
