"""Score samples, and aggregate scores to means with intervals."""
