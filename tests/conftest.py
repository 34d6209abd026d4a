"""Shapes and types in annotations are checked here, by jaxtyping and beartype, and only here."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

install_import_hook("pipeline", "beartype.beartype")
