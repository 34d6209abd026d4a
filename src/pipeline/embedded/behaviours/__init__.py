"""The embedded model's behaviours: a new one is a file here and a name in `BEHAVIOURS`."""

from pipeline.embedded.behaviours.lists import LISTS
from pipeline.embedded.behaviours.refusal import REFUSAL
from pipeline.embedded.behaviours.text import TEXT

BEHAVIOURS = (REFUSAL, LISTS, TEXT)
