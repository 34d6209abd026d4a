"""Probes: what can be read from states by a linear map, beside what shuffled targets give."""
