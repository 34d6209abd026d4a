"""Many conditions at once over one model."""
