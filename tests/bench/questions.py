"""The yes/no detector of `bench-trainingfree`: a VQA model asked the paper's questions, if one is available.

CLINIC_VQA=FOLDER-OR-URL make bench-trainingfree
"""

import os
import time
from pathlib import Path

import numpy as np

from dataengine.curation.answers import AnswerCache
from dataengine.curation.questions import select_questions
from dataengine.curation.vqa import QuestionCategorizer, load_categorizer
from dataengine.curation.yes_no import YesNoDetector, score_questions, vqa_config
from tests.bench.guided_sampling import KEEPER, ImageRow
from tests.bench.harness import Figure, device, figure, share
from tests.bench.source_hash import weights_hash

MODEL = "CLINIC_VQA"
CHOSEN_ON = 40
"""Validation images, flawed and clean, on which the question is chosen."""


def question_figure(name: str, known: ImageRow, test: ImageRow, rows: np.ndarray) -> Figure:
    """Share right of the test images `rows` by the question that is best on validation (ASCED, Sec. 4.2)."""
    id, location = f"accuracy_vqa_{name}", os.environ.get(MODEL)
    if not location:
        return figure(id, "not measured", note=f"no VQA model is shipped; {MODEL}=FOLDER names one")
    # A model behind a URL may change unseen, so its answers are kept for this run alone.
    weights = weights_hash(Path(location)) if Path(location).is_dir() else f"run of {time.time()}"
    folder = KEEPER.folder("answers", {"model": location, "weights": weights})
    opened = load_categorizer(location, vqa_config(select_questions()[0]), device(), folder)
    if not isinstance(opened, QuestionCategorizer):
        return figure(id, "not measured", note=f"{location} answers no question")
    half = CHOSEN_ON // 2
    chosen = np.concatenate([np.flatnonzero(known.flawed == kind)[:half] for kind in (True, False)])

    def asking(number: int) -> YesNoDetector:
        question = select_questions([number])[0]
        kept = AnswerCache(folder, location, question.text)
        return YesNoDetector(opened.with_question(vqa_config(question), kept), question)

    verdicts = {each: asking(each.number).verdicts(known.images[chosen]) for each in select_questions()}
    best = score_questions(verdicts, known.flawed[chosen].tolist())[0]
    said = asking(best.question.number).verdicts(test.images[rows])
    right = sum(one is bool(bad) for one, bad in zip(said, test.flawed[rows], strict=True))
    note = f"question {best.question.number}, {best.accuracy:.2f} on validation; paper's LLaVA 0.60-0.91"
    return share(id, right, len(rows), note)
