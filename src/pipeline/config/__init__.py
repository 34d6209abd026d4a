"""The schema of a study, its composition, and its checks."""
