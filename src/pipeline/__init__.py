"""actsweep: layer sweeps of activation steering on language models."""
