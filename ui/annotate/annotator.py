"""Who may label: the dependency that all routes of the annotation API share."""

from typing import Annotated

from ui.web.access import roles
from ui.web.sessions import Person, Requires

ANNOTATORS = roles("annotator", "curator")
Annotator = Annotated[Person, Requires(ANNOTATORS, "labelling")]
