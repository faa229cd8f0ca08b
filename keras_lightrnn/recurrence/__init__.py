"""Recurrent cells, each defined once, and the stack that runs them."""
