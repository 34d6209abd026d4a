"""The embedded model's behaviours: a new one is a file here and a name in `BEHAVIOURS`."""

from pipeline.embedded.behaviours.agreement import AGREEMENT
from pipeline.embedded.behaviours.facts import FACTS
from pipeline.embedded.behaviours.hops import HOPS
from pipeline.embedded.behaviours.in_context import IN_CONTEXT
from pipeline.embedded.behaviours.indirect_objects import INDIRECT_OBJECTS
from pipeline.embedded.behaviours.languages import LANGUAGES
from pipeline.embedded.behaviours.lists import LISTS
from pipeline.embedded.behaviours.opinions import OPINIONS
from pipeline.embedded.behaviours.refusal import REFUSAL
from pipeline.embedded.behaviours.senses import SENSES_TOLD
from pipeline.embedded.behaviours.steps import STEPS_SHOWN
from pipeline.embedded.behaviours.text import TEXT
from pipeline.embedded.behaviours.translation import TRANSLATION

BEHAVIOURS = (
    REFUSAL,
    LISTS,
    TEXT,
    OPINIONS,
    LANGUAGES,
    TRANSLATION,
    AGREEMENT,
    FACTS,
    HOPS,
    INDIRECT_OBJECTS,
    SENSES_TOLD,
    IN_CONTEXT,
    STEPS_SHOWN,
)
