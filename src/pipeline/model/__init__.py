"""Load language models, name their sites and hook their activations."""
