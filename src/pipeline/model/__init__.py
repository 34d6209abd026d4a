"""What a language model is to us: sites, loading, hooks."""
