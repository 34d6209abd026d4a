"""Fits and interventions: one file per paper."""
