"""Prompting and sampling: templates, decodings, many answers to a prompt, and their ratings."""
