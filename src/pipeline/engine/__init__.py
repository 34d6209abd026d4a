"""Run many conditions over one model in shared batches."""
