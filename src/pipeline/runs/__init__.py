"""Track runs: outputs, records and cost estimates."""
