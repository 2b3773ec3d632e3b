"""Yes/no questions to a vision model, one answer per image: the LLaVA baseline of ASCED (Sec. 4.2, 6.2).

The paper lists fifty questions, forty-three of them different; in some "yes" means that the image is clean.
The best one is chosen on validation, as the paper chose on its test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from dataengine.errors import ConfigRefused

Meaning = Literal["artifact", "clean"]
ARTIFACT: Meaning = "artifact"
CLEAN: Meaning = "clean"
YES, NO = "yes", "no"


@dataclass(frozen=True)
class Question:
    """A question that is answered with yes or no, by its number in the paper."""

    number: int
    text: str
    yes_means: Meaning
    """Whether "yes" means flawed or clean."""

    def artifact(self, answer: str) -> bool | None:
        """Whether the answer, "yes" or "no", means that there is an artifact; None for any other answer."""
        if answer not in (YES, NO):
            return None
        return (answer == YES) == (self.yes_means == ARTIFACT)


QUESTIONS: tuple[Question, ...] = (
    Question(
        1,
        "Assess if there are any visible flaws in this image that a person could easily detect, like "
        "irregular shapes, unexpected color variations, blurred regions, or any other clear image "
        "disruptions. Answer with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        2,
        "Does this image contain any significant artifacts that distort the natural appearance, such as "
        "unexpected color patches, blurring, or pixelation? Please reply 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        3,
        "Are there any obvious flaws in this image, such as large blurry areas, severe distortions, or "
        "color errors? Respond with 'yes' or 'no' only.",
        yes_means=ARTIFACT,
    ),
    Question(
        4,
        "Can you identify any glaring visual defects in this image that would be immediately noticeable "
        "to a human viewer? Reply with just 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        5,
        "Determine if this image shows any noticeable defects or artifacts that would be easily seen by a"
        " human, including shape distortions, color issues, blurring, or pixelation in areas where it "
        "should be smooth. Please reply 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        6,
        "Does this image have any obvious visual artifacts such as severe blurring, distortion, or "
        "unrealistic colors that would make it appear unnatural or of poor quality? Answer 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        7,
        "Is the quality of this image significantly impaired by visual defects like large areas of "
        "pixelation, color mismatches, or misplaced objects? Please respond with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        8,
        "Can you identify any prominent visual issues in this image, such as incorrect color rendering, "
        "noticeable noise, severe blurring, or any elements that appear misplaced or distorted? Answer "
        "with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        9,
        "Does this image contain any obvious visual flaws that significantly degrade its quality, such as"
        " large blurry sections, strange artifacts, or clearly incorrect proportions of objects? Answer "
        "'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        10,
        "Is there any obvious visual artifact in this image, like a hand growing out of a face, "
        "unrealistic color transitions, or large areas of texture inconsistency that make the image "
        "appear fake or unnatural? Please respond 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        11,
        "Determine if this image has any clear visual artifacts that affect its appearance, such as "
        "distorted shapes, wrong color patches, excessive noise, or objects that are clearly in the wrong"
        " place. Reply with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        12,
        "Is the visual quality of this image compromised by obvious flaws, including but not limited to "
        "severe blurring, incorrect object placement, or large areas of unrealistic colors? Respond with "
        "'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        13,
        "Examine the image for any significant visual issues, like pronounced noise, pixelation, "
        "unrealistic colors, or misaligned elements that affect the overall image quality. Please answer "
        "'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        14,
        "Does this image exhibit any major visual artifacts that a human observer would immediately "
        "notice, such as large blurs, odd color patterns, or misplaced elements? Answer only with 'yes' "
        "or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        15,
        "Assess if there are any visible and distracting visual artifacts in this image, such as large "
        "unnatural blurs, obvious pixelation, incorrect object shapes, or areas of incorrect coloring. "
        "Reply with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        16,
        "Does this image contain any major visual artifacts that significantly degrade its quality? "
        "Answer only 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        19,
        "Does this image exhibit any significant visual anomalies like body parts in unnatural positions "
        "or severe pixelation? Answer 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        20,
        "Is the overall quality of this image notably poor due to visible artifacts or distortions? "
        "Provide only a 'yes' or 'no' response.",
        yes_means=ARTIFACT,
    ),
    Question(
        21,
        "Are there any major visual imperfections in this image that make it look unrealistic or poorly "
        "generated? Reply with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        22,
        "Does this image contain any obvious flaws that would make you question its authenticity or "
        "quality? Answer only with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        23,
        "Can you spot any significant visual errors in this image, such as misplaced facial features or "
        "unnatural textures? Respond with just 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        24,
        "Is there any clear evidence of poor image generation or editing in this picture, like "
        "inconsistent lighting or impossible anatomy? Reply 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        29,
        "Would you consider this image to be of low quality due to noticeable visual artifacts or errors?"
        " Answer with only 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        30,
        "Does this image appear to be of normal quality, without any obvious visual artifacts such as "
        "blurring, distortion, or unnatural colors? Answer 'yes' if it appears normal, 'no' if there are "
        "visible issues.",
        yes_means=CLEAN,
    ),
    Question(
        31,
        "Is this image free of any significant visual defects like pixelation, color mismatches, or "
        "misplaced objects? Respond with 'yes' if there are no issues, or 'no' if such artifacts are "
        "present.",
        yes_means=CLEAN,
    ),
    Question(
        32,
        "Can you confirm that this image has no prominent visual issues, such as incorrect color "
        "rendering, noticeable noise, severe blurring, or misplaced elements? Answer 'yes' if there are "
        "no issues, and 'no' if there are.",
        yes_means=CLEAN,
    ),
    Question(
        34,
        "Does this image lack any obvious visual flaws that would significantly degrade its quality, such"
        " as blurry sections, artifacts, or incorrect object proportions? Answer 'yes' for no flaws, 'no'"
        " if flaws are present.",
        yes_means=CLEAN,
    ),
    Question(
        35,
        "Is the image free from visual artifacts like hands growing out of faces, unrealistic color "
        "transitions, or texture inconsistencies that make the image look unnatural? Reply 'yes' if the "
        "image is clear, or 'no' if artifacts are present.",
        yes_means=CLEAN,
    ),
    Question(
        36,
        "Determine whether this image has any major visual artifacts affecting its appearance, such as "
        "distorted shapes, incorrect colors, excessive noise, or misaligned elements. Reply 'yes' if the "
        "image looks normal, or 'no' if such issues exist.",
        yes_means=CLEAN,
    ),
    Question(
        37,
        "Is the visual quality of this image high, with no obvious flaws like severe blurring, misplaced "
        "objects, or large patches of unrealistic colors? Respond 'yes' if the quality is good, 'no' if "
        "issues are found.",
        yes_means=CLEAN,
    ),
    Question(
        38,
        "Evaluate this image for any significant visual issues, such as noise, pixelation, unrealistic "
        "colors, or misaligned elements. Respond 'yes' if no issues are found, 'no' if any artifacts are "
        "present.",
        yes_means=CLEAN,
    ),
    Question(
        39,
        "Does this image have any noticeable visual artifacts that a human observer would immediately "
        "recognize, such as large blurs, odd color patterns, or misplaced elements? Answer 'yes' if there"
        " are no artifacts, or 'no' if artifacts are present.",
        yes_means=CLEAN,
    ),
    Question(
        40,
        "Is this image clear of any visible and distracting visual artifacts, such as large blurs, "
        "obvious pixelation, incorrect object shapes, or wrong coloring? Reply 'yes' if the image is free"
        " of artifacts, 'no' if artifacts are visible.",
        yes_means=CLEAN,
    ),
    Question(
        41,
        "Are there any jarring inconsistencies or unnatural elements in this image that detract from its "
        "realism? Answer 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        42,
        "Does this image show any signs of poor rendering, such as incomplete objects or abrupt "
        "transitions? Respond with only 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        43,
        "Can you detect any major issues with perspective or proportions in this image that make it look "
        "artificial? Reply with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        44,
        "Are there any noticeable problems with the lighting or shadows in this image that seem "
        "unrealistic? Answer only 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        45,
        "Does this image contain any elements that appear to be unnaturally distorted or warped? Provide "
        "a 'yes' or 'no' response.",
        yes_means=ARTIFACT,
    ),
    Question(
        46,
        "Can you identify any significant issues with the texture or surface details in this image that "
        "look artificial? Reply with just 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        47,
        "Are there any obvious problems with the edges or outlines of objects in this image, such as "
        "jagged lines or haloing? Answer 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        48,
        "Does this image exhibit any clear signs of over-processing or artificial enhancement that "
        "degrade its quality? Respond with 'yes' or 'no' only.",
        yes_means=ARTIFACT,
    ),
    Question(
        49,
        "Can you spot any major inconsistencies in the style or appearance of different parts of this "
        "image? Reply with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
    Question(
        50,
        "Are there any glaring issues with the color balance or saturation in this image that make it "
        "look unnatural? Answer only with 'yes' or 'no'.",
        yes_means=ARTIFACT,
    ),
)
"""The questions of the paper without repetitions. Number 5 was its best."""


def select_questions(numbers: Sequence[int] = ()) -> tuple[Question, ...]:
    """The questions of these numbers, or all. Raises `ConfigRefused` for an unknown number."""
    known = {question.number: question for question in QUESTIONS}
    strange = [number for number in numbers if number not in known]
    if strange:
        raise ConfigRefused(f"there is no question {strange}; choose from {sorted(known)}")
    return tuple(known[number] for number in numbers) or QUESTIONS
