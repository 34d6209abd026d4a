"""What is fitted and what is changed: one paper, one file."""
