"""What a study may say, how it is composed, and whether it can run."""
