"""What the engine costs beside the same work done otherwise."""
