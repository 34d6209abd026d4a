"""What a run leaves behind: outputs, records, estimates."""
