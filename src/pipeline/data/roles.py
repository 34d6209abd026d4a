"""The roles and axes of conditions, as tables have them; imports nothing heavy."""

BASELINE, CANDIDATE, CURVE, CONTROL = "baseline", "candidate", "curve", "control"
"""Roles of a condition. `BASELINE`: no edit. `CANDIDATE`: validation may choose it. `CURVE`: shown
in curves but never chosen, such as layers that the selection excludes. `CONTROL`: a control.
"""

Axis = str | int | float
"""A coordinate of a condition on an axis of a sweep."""
