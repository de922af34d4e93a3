"""What the parts share: how a part is validated, and the types of their keys."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return pattern


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveNumber = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # what torch and NumPy both take
# What an engine computes in; `-fp16` is the same graph with FP16 in place of the FP32 that is left in it. With `bf16` the engine
# computes the FP32 of its graph in BF16.
Precision = Literal[
    "fp32", "fp16", "int8", "int8-fp16", "fp8", "fp8-fp16", "int8-sparse", "int8-sparse-fp16",
    "int8-qat", "int8-qat-fp16", "auto", "auto-fp16", "bf16", "int8-bf16",
]  # fmt: skip
Pattern = Annotated[str, AfterValidator(_compiles)]
# Left out of what is written where it says nothing: trainings from before there was such a key are not done again.
LEFT_OUT = Field(exclude_if=lambda value: value is None)


class Part(BaseModel):
    """Unknown keys, infinity and NaN are refused; a part is never changed. A text below a key is its description in editors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True,
    )  # fmt: skip
