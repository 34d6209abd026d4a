"""Prompt sets: tables, tokens and positions."""
