"""Draw tables as figures and pages."""
