"""Samples to scores, scores to numbers with intervals."""
