"""Store activations on disk and read them back."""
