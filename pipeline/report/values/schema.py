"""What report.json may hold: its keys, types and ranges, and that its conclusions are those of its numbers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.report.values.rows import pareto_names, recommended

Percent = Annotated[float, Field(ge=0, le=100)]
Difference = Annotated[float, Field(ge=-100, le=100)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BatchSize = Annotated[str, Field(pattern=r"^[1-9][0-9]*$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


_MOST_PROBLEMS = 12  # of a report, in a message


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Dataset(_Part):
    name: Text
    classes: Annotated[int, Field(gt=0)] | Annotated[list[Text], Field(min_length=1)]  # how many, or their names
    eval_images: Count
    calibration_images: Count
    classes_without_images: Annotated[list[Text], Field(min_length=1)] | None = None  # of evaluation


class _Machine(_Part):
    cpu: Text
    gpu: Text | None
    versions: dict[str, str]


class _Gate(_Part):
    min_relative_top1: Annotated[float, Field(ge=0, le=1)]


class _Latency(_Part):
    p50: Positive
    p90: Positive
    p99: Positive


class _Layers(_Part):
    int8: Count
    fp8: Count | None = None  # these two only where there are any
    bf16: Count | None = None
    fp16: Count
    fp32: Count


class _Changed(_Part):
    """A class of which images changed between right and wrong."""

    label: Text
    images: Count
    reference_top1: Percent
    top1: Percent
    gained: Count
    lost: Count
    p: Probability


class _Moved(_Part):
    """A confusion: how many images of `label` the reference and the engine take for `predicted`."""

    label: Text
    predicted: Text
    reference: Count
    engine: Count


class _Flip(_Part):
    """An image that the reference gets right and the engine wrong; `probability` is null where it gave none."""

    image: Text
    label: Text
    reference_probability: Probability
    predicted: Text
    probability: Probability | None


class _Comparison(_Part):
    """Against the reference, image by image; the lists hold the largest changes only."""

    gained: Count
    lost: Count
    mcnemar_p: Probability
    smallest_drop_pp: Percent | None
    classes_changed: Count
    per_class: list[_Changed]
    confusion_moved: list[_Moved]
    flips: list[_Flip]


class _GpuParts(_Part):
    """Medians of one call's parts by the GPU's clock."""

    copy_in: Annotated[float, Field(ge=0)]
    compute: Positive
    copy_out: Annotated[float, Field(ge=0)]


class _GpuEnergy(_Part):
    mj_per_image: Annotated[float, Field(ge=0)]  # 0 where the counter did not move within a short load
    watts: Annotated[float, Field(ge=0)]
    source: Text
    clocks_mhz: dict[Text, Count]


class _OnGpu(_Part):
    """Of an engine that ran on a GPU; `graphs`: batch size → "" where it ran as a CUDA graph, else why it did not."""

    latency_ms: _Latency
    parts_ms: _GpuParts
    graphs: dict[BatchSize, str]
    sync: Text
    transfers: bool
    energy: dict[BatchSize, _GpuEnergy]


class _Variant(_Part):
    name: Text
    precision: Text
    backend: Text
    status: Literal["pass", "fail", "unavailable", "error"]
    reason: str
    top1: Percent | None
    top5: Percent | None
    delta_top1_pp: Difference | None
    ci95_pp: Annotated[list[Difference], Field(min_length=2, max_length=2)] | None
    agreement: Percent | None
    latency_ms: _Latency | None
    images_per_s: dict[BatchSize, Positive | None] | None
    size_bytes: Count | None
    peak_memory_bytes: Count | None
    energy_mj: Annotated[float, Field(ge=0)] | None
    layers: _Layers | None
    pareto: bool
    artifact: Text | None
    sha256: Sha256 | None
    comparison: _Comparison | None = None
    percentiles_ms: dict[BatchSize, Annotated[list[Positive], Field(min_length=101, max_length=101)]] | None = None
    on_gpu: _OnGpu | None = None

    @model_validator(mode="after")
    def _status_fits(self) -> "_Variant":
        judged = (self.top1, self.top5, self.delta_top1_pp, self.ci95_pp, self.agreement)
        if self.status in ("pass", "fail") and None in judged:
            raise ValueError(f"{self.name} has status {self.status} but not all of its accuracy")
        if self.status == "pass" and None in (self.artifact, self.sha256):
            raise ValueError(f"{self.name} passes, so it needs its artifact and sha256")
        if self.status == "unavailable" and (self.top1 is not None or self.latency_ms is not None):
            raise ValueError(f"{self.name} is unavailable, yet has measurements")
        if self.status != "pass" and not self.reason.strip():
            raise ValueError(f"{self.name} has status {self.status} and no reason")
        if self.comparison and self.delta_top1_pp is None:
            raise ValueError(f"{self.name} has a comparison but no accuracy")
        if any(values != sorted(values) for values in (self.percentiles_ms or {}).values()):
            raise ValueError(f"{self.name} has percentiles that fall")
        return self


class _Recommended(_Part):
    name: Text
    backend: Text


class _Reference(_Part):
    name: Text
    top1: Percent
    top5: Percent


class _EnoughImages(_Part):
    """Whether the evaluation would see a drop as large as the gate allows."""

    images: Count
    smallest_drop_pp: Percent | None
    gate_drop_pp: Percent
    images_needed: Count | None
    enough: bool


class _Report(_Part):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    run: Text
    model: Text
    dataset: _Dataset
    machine: _Machine
    preprocess_sha256: Sha256
    gate: _Gate
    variants: list[_Variant]
    recommended: _Recommended | None
    reference: _Reference | None = None
    enough_images: _EnoughImages | None = None

    @model_validator(mode="after")
    def _comparisons_fit(self) -> "_Report":
        for variant in self.variants:
            if variant.comparison and variant.delta_top1_pp is not None:
                delta = 100 * (variant.comparison.gained - variant.comparison.lost) / self.dataset.eval_images
                if abs(delta - variant.delta_top1_pp) > 1e-6:
                    raise ValueError(f"{variant.name} lost {variant.delta_top1_pp} points, its images say {delta}")
        return self


def check_report(report: dict[str, Any]) -> None:
    """Raise ValueError, naming the problems, unless `report` has exactly report.json's keys, types and ranges.

    Also wrong: one name twice, NaN or infinity anywhere, a `pareto` flag or a recommendation that the numbers do not
    give.
    """
    try:
        _Report.model_validate(report)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, p['loc'])) or 'report'}: {p['msg']}" for p in error.errors()]
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] if len(problems) > _MOST_PROBLEMS else []
        raise ValueError("this is not a report:\n  " + "\n  ".join(problems[:_MOST_PROBLEMS] + more)) from error
    names = [variant["name"] for variant in report["variants"]]
    if len(set(names)) != len(names):
        raise ValueError(f"this is not a report: variant names must differ, got {names}")
    front, flagged = pareto_names(report["variants"]), {v["name"] for v in report["variants"] if v["pareto"]}
    if front != flagged:
        raise ValueError(f"this is not a report: the Pareto front is {sorted(front)}, flagged is {sorted(flagged)}")
    if report["recommended"] != recommended(report["variants"]):
        raise ValueError(
            f"this is not a report: it recommends {report['recommended']}, "
            f"its numbers {recommended(report['variants'])}"
        )
