"""Circuits: the components of a model that suffice for a behaviour."""
