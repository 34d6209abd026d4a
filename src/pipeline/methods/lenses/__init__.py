"""Lenses: the residual stream of every layer, read as a next-token distribution."""
