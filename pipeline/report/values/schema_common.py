"""What every task's report.json may hold: keys, types and ranges. `schema_tasks` adds what differs."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.tasks.words import Words

Percent = Annotated[float, Field(ge=0, le=100)]
Difference = Annotated[float, Field(ge=-100, le=100)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BatchSize = Annotated[str, Field(pattern=r"^[1-9][0-9]*$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """No other keys, no other types, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Dataset(Part):
    """What was evaluated."""

    name: Text
    classes: Annotated[int, Field(gt=0)] | Annotated[list[Text], Field(min_length=1)]  # how many, or their names
    eval_images: Count
    calibration_images: Count
    classes_without_images: Annotated[list[Text], Field(min_length=1)] | None = None  # of evaluation


class Machine(Part):
    """Where it was measured."""

    cpu: Text
    gpu: Text | None
    versions: dict[str, str]


class _Latency(Part):
    p50: Positive
    p90: Positive
    p99: Positive


class _Layers(Part):
    int8: Count
    fp8: Count | None = None  # these two only where there are any
    bf16: Count | None = None
    fp16: Count
    fp32: Count


class Moved(Part):
    """A confusion: how many images or pixels of `label` the reference and the engine take for `predicted`."""

    label: Text
    predicted: Text
    reference: Count
    engine: Count


class _GpuParts(Part):
    """Medians of one call's parts by the GPU's clock."""

    copy_in: Annotated[float, Field(ge=0)]
    compute: Positive
    copy_out: Annotated[float, Field(ge=0)]


class _GpuEnergy(Part):
    mj_per_image: Annotated[float, Field(ge=0)]  # 0 where the counter did not move within a short load
    watts: Annotated[float, Field(ge=0)]
    source: Text
    clocks_mhz: dict[Text, Count]


class _OnGpu(Part):
    """Of an engine that ran on a GPU; `graphs`: batch size → "" where it ran as a CUDA graph, else why it did not."""

    latency_ms: _Latency
    parts_ms: _GpuParts
    graphs: dict[BatchSize, str]
    sync: Text
    transfers: bool
    energy: dict[BatchSize, _GpuEnergy]


class Variant(Part):
    """An engine, without its scores. A task's has fields for them, `comparison`, and what these say of one another."""

    WORDS: ClassVar[Words]

    name: Text
    precision: Text
    backend: Text
    status: Literal["pass", "fail", "unavailable", "error"]
    reason: str
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
    percentiles_ms: dict[BatchSize, Annotated[list[Positive], Field(min_length=101, max_length=101)]] | None = None
    on_gpu: _OnGpu | None = None

    @model_validator(mode="after")
    def _status_fits(self) -> "Variant":
        words = self.WORDS
        score = self.figure(words.score)
        judged = (score, self.figure(words.second), self.figure(words.delta), self.ci95_pp, self.agreement)
        if self.status in ("pass", "fail") and None in judged:
            raise ValueError(f"{self.name} has status {self.status} but not all of its accuracy")
        if self.status == "pass" and None in (self.artifact, self.sha256):
            raise ValueError(f"{self.name} passes, so it needs its artifact and sha256")
        if self.status == "unavailable" and (score is not None or self.latency_ms is not None):
            raise ValueError(f"{self.name} is unavailable, yet has measurements")
        if self.status != "pass" and not self.reason.strip():
            raise ValueError(f"{self.name} has status {self.status} and no reason")
        if getattr(self, "comparison", None) and self.figure(words.delta) is None:
            raise ValueError(f"{self.name} has a comparison but no accuracy")
        if any(values != sorted(values) for values in (self.percentiles_ms or {}).values()):
            raise ValueError(f"{self.name} has percentiles that fall")
        return self

    def figure(self, key: str) -> float | None:
        """A score, or a difference of scores, by its key."""
        found: float | None = getattr(self, key)
        return found


class _Recommended(Part):
    name: Text
    backend: Text


class _EnoughImages(Part):
    """Whether the evaluation would see a drop as large as the gate allows."""

    images: Count
    smallest_drop_pp: Percent | None
    gate_drop_pp: Percent
    images_needed: Count | None
    enough: bool


class Report(Part):
    """A report, without what differs between tasks: its `gate`, `variants` and `reference`."""

    schema_: Annotated[Literal[1], Field(alias="schema")]
    run: Text
    model: Text
    dataset: Dataset
    machine: Machine
    preprocess_sha256: Sha256
    recommended: _Recommended | None
    enough_images: _EnoughImages | None = None
