"""Representations: tokens, embedding tables, and the states of words in their contexts."""
