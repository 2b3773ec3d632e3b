"""The desks in the order of their cards and links. A new one is a folder with a `desk.py` and a line here."""

from ui.account.desk import DESK as ACCOUNT
from ui.admin.desk import DESK as ADMIN
from ui.annotate.desk import DESK as ANNOTATE
from ui.curate.desk import DESK as CURATE
from ui.gradio.desk import DESK as GRADIO
from ui.home.desk import DESK as HOME
from ui.importing.desk import DESK as IMPORTING
from ui.label_studio.desk import DESK as LABEL_STUDIO
from ui.reference.desk import DESK as REFERENCE
from ui.rounds.desk import DESK as ROUNDS
from ui.runs.desk import DESK as RUNS
from ui.study.desk import DESK as STUDY
from ui.train.desk import DESK as TRAIN
from ui.treat.desk import DESK as TREAT
from ui.web.desk import Desk

DESKS: tuple[Desk, ...] = (
    HOME,
    IMPORTING,
    ANNOTATE,
    CURATE,
    TRAIN,
    TREAT,
    STUDY,
    ROUNDS,
    GRADIO,
    ADMIN,
    RUNS,
    ACCOUNT,
    REFERENCE,
    LABEL_STUDIO,
)
