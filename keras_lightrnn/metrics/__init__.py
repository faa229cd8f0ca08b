"""Metrics of language models."""

from keras_lightrnn.metrics.perplexity import Perplexity

__all__ = ["Perplexity"]
