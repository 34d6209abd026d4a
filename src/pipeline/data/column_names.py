"""Names of columns that the pipeline writes: no column of a dataset and no axis may take them."""

OF_PROMPTS = ("sample", "prompt", "tokens")
OF_CONDITIONS = ("condition", "role", "at_setting", "is_setting")
OF_COMPLETIONS = ("completion", "n_tokens", "stopped")
OF_SCORES = ("repeat", "metric", "score")
OF_SUMMARY = (
    *("mean", "n", "n_unscored", "stderr", "low", "high", "interval"),
    *("metric_label", "percent", "share"),
)

NOT_IN_DATASETS = (*OF_PROMPTS, "arm", *OF_CONDITIONS, *OF_SCORES)
"""Columns that later stages add to the rows of every dataset."""
NOT_IN_FILES = ("raw", "subject_start", "draw", *OF_COMPLETIONS)
"""Columns that loaders set, so that no file can give them."""
NOT_AXES = (
    *("label", "split", "topic"),
    *(*OF_PROMPTS, *OF_CONDITIONS, *OF_COMPLETIONS, *OF_SCORES, *OF_SUMMARY),
)
"""Columns of tables in which the axes of conditions are columns too."""
