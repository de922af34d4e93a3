"""What a task's numbers are called, in files and in text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """`score` is the key of what the gate is about, `second` of what stands beside it; both are percentages.

    `things` is what agreement counts, `same` what these have in common with FP32's, `answer` the same in one word; `kept` is
    the name of an engine's answers in files, `labels` of what is right.
    """

    task: str
    score: str
    score_name: str
    second: str
    second_name: str
    things: str
    same: str
    answer: str
    kept: str

    @property
    def delta(self) -> str:
        """The key of the score's difference from FP32's, in percentage points."""
        return f"delta_{self.score}_pp"

    @property
    def gate(self) -> str:
        """The key of the share of FP32's score that an engine must keep."""
        return f"min_relative_{self.score}"

    def things_of(self, images: str) -> str:
        """`images`, or "the pixels of" these: what agreement counts."""
        return images if self.things == "images" else f"the {self.things} of {images}"


CLASSIFICATION = Words(
    task="classification", score="top1", score_name="top-1", second="top5", second_name="top-5", things="images",
    same="the same top-1 class", answer="top-1", kept="logits",
)  # fmt: skip
SEGMENTATION = Words(
    task="segmentation", score="miou", score_name="mIoU", second="pixel_accuracy", second_name="pixel accuracy",
    things="pixels", same="the same class", answer="class", kept="maps",
)  # fmt: skip
WORDS = {words.task: words for words in (CLASSIFICATION, SEGMENTATION)}


def words_of(report: dict[str, object]) -> Words:
    """Of the task of a report, an evaluation or a manifest: classification where it names none."""
    return WORDS[str(report.get("task", CLASSIFICATION.task))]


def task_key(words: Words) -> dict[str, str]:
    """What a file says of its task: nothing of classification."""
    return {} if words == CLASSIFICATION else {"task": words.task}
