"""What a signed model says of itself: `manifest.json`, schema version 1.

Every value is checked here, once, so that the rest of the line may rely on it. Export writes the same model.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edge.errors import ModelError
from edge.images.conversion import Bounds
from edge.images.exposure import ExposureModel
from edge.images.method import Method
from edge.images.sharpness import SharpnessModel
from edge.images.spread import Spread
from edge.records import Scores
from edge.system.text import first_error

SCHEMA_VERSION: Final = 1
CLASSIFIER_FILE = "classifier.onnx"
GATE_FILE = "gate.onnx"
GOLDEN_DIR = "golden"
LABELS = ("normal", "abnormal")
"""Class 0 and class 1 of the classifier; `p_abnormal` is the probability of class 1."""

MIN_INPUT_PX = 64
"""The gate's valid convolutions and its 9 x 9 windows use up 46 px; no scan is that small."""
MAX_INPUT_PX = 8192
MIN_GOLDEN = 2

_EXPORT_AGAIN = "export the model again with an `edge-export` of the same release as this program"

Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$")]
GoldenPath = Annotated[str, Field(pattern=r"^golden/[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.tif$")]
FilePath = Annotated[str, Field(pattern=r"^(classifier\.onnx|gate\.onnx|golden/[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.tif)$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
SidePx = Annotated[int, Field(ge=MIN_INPUT_PX, le=MAX_INPUT_PX)]
GreyCounts = Annotated[int, Field(ge=0, le=65_535)]
NineNumbers = Annotated[tuple[float, ...], Field(min_length=9, max_length=9)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Input(Part):
    """What the graphs take: uint8 (n, channels, height_px, width_px)."""

    height_px: SidePx
    width_px: SidePx
    channels: Literal[1, 3]


class Conversion(Part):
    """How 16-bit counts become that input; the bounds are null where the method uses none."""

    method: Method
    lo_counts: GreyCounts | None
    hi_counts: GreyCounts | None

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        given = self.lo_counts is not None and self.hi_counts is not None
        if (self.lo_counts is None) != (self.hi_counts is None) or given != self.method.needs_bounds:
            expected = "both bounds" if self.method.needs_bounds else "no bounds"
            raise ValueError(f"conversion {self.method} has {self.lo_counts}..{self.hi_counts}, expected {expected}")
        _ = self.bounds
        return self

    @property
    def bounds(self) -> Bounds | None:
        if self.lo_counts is None or self.hi_counts is None:
            return None
        return Bounds(self.lo_counts, self.hi_counts)


class Thresholds(Part):
    """The decision's constants, see `edge.records.Policy`."""

    threshold: Probability
    review_band: tuple[Probability, Probability] | None
    gate_mean_threshold: Positive
    gate_std_threshold: Positive

    @field_validator("review_band")
    @classmethod
    def _ordered(cls, band: tuple[float, float] | None) -> tuple[float, float] | None:
        if band is not None and band[0] > band[1]:
            raise ValueError(f"review band {band[0]}..{band[1]} ends before it begins")
        return band


class ExposureSpec(Part):
    """How the greys of the training scans are spread: see `edge.images.exposure`."""

    mean: NineNumbers
    inverse_covariance: Annotated[tuple[NineNumbers, ...], Field(min_length=9, max_length=9)]
    limit: Positive

    @property
    def model(self) -> ExposureModel:
        return ExposureModel(Spread(self.mean, self.inverse_covariance, self.limit))


class SharpnessSpec(Part):
    """How sharp and how noisy the training scans are: see `edge.images.sharpness`."""

    max_edge_px: tuple[Positive, Positive]
    """Along x, along y."""
    noise_counts: tuple[Positive, Positive]
    fineness: tuple[Positive, Positive]

    @field_validator("noise_counts", "fineness")
    @classmethod
    def _ordered(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] > limits[1]:
            raise ValueError(f"{limits[0]} to {limits[1]}, expected the lower limit first")
        return limits

    @property
    def model(self) -> SharpnessModel:
        return SharpnessModel(self.max_edge_px, self.noise_counts, self.fineness)


class ScanRange(Part):
    """The scans the model was made for; others go to a person without being scored."""

    height_px: tuple[int, int]
    width_px: tuple[int, int]
    max_clipped_fraction: Probability
    sharpness: SharpnessSpec
    """Without it a blurred scan would be judged, and a blurred defect is a normal electrode."""
    exposure: ExposureSpec

    @field_validator("height_px", "width_px")
    @classmethod
    def _ordered(cls, sides: tuple[int, int]) -> tuple[int, int]:
        if not 0 < sides[0] <= sides[1]:
            raise ValueError(f"scan size {sides[0]}..{sides[1]} px, expected 0 < smallest <= largest")
        return sides


class GateMap(Part):
    """Cell (i, j) of the residual map holds the windows centred in input pixels from offset + cell * (i, j)."""

    cell_px: Annotated[int, Field(ge=1, le=1024)]
    offset_px: Annotated[int, Field(ge=-1024, le=1024)]


class ReasonMap(Part):
    """Cell (i, j) of the classifier's reason map covers input pixels from offset + cell * (i, j)."""

    cell_px: Annotated[int, Field(ge=1, le=1024)]
    offset_px: Annotated[int, Field(ge=-1024, le=1024)]


class QuickPass(Part):
    """Scores of the quick pass in 8 bits that do not decide: with them a scan is computed precisely.

    `p_abnormal`: intervals, ends included. A gate's score is doubtful from `gate_mean_from`, `gate_std_from` on.
    """

    p_abnormal: Annotated[tuple[tuple[Probability, Probability], ...], Field(min_length=1)]
    gate_mean_from: float
    gate_std_from: float

    def doubts(self, scores: Scores) -> bool:
        """Whether either network computes a scan again that has these scores in the quick pass.

        By those of the answer it is nearly so: a doubtful scan's may have moved out of the interval.
        """
        of_p = any(low <= scores.p_abnormal <= high for low, high in self.p_abnormal)
        return of_p or scores.gate_mean_max >= self.gate_mean_from or scores.gate_std_max >= self.gate_std_from

    def sure_limits(self, policy: Thresholds) -> list[str]:
        """Limits of a policy about which the quick pass would decide: it may do so at none."""
        cuts = {"threshold": policy.threshold}
        if policy.review_band is not None:
            cuts |= dict(zip(("lower end of the review band", "upper end"), policy.review_band, strict=True))
        sure = [name for name, cut in cuts.items() if not any(low <= cut <= high for low, high in self.p_abnormal)]
        sure += ["gate_mean_threshold"] * (self.gate_mean_from > policy.gate_mean_threshold)
        return sure + ["gate_std_threshold"] * (self.gate_std_from > policy.gate_std_threshold)


class Golden(Part):
    """A scan in the model and what every engine must say of it, within `tolerance` of each score."""

    file: GoldenPath
    p_abnormal: Probability
    gate_mean_max: Annotated[float, Field(ge=0.0)]
    gate_std_max: Annotated[float, Field(ge=0.0)]
    tolerance: Annotated[float, Field(gt=0.0, le=0.05)]


class LearntFrom(Part):
    """What the networks learnt from, or the thresholds were set on: a test on any of it says nothing."""

    lots: tuple[str, ...] = ()
    scans: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")], ...] = ()
    """First 16 hex digits of the SHA-256 of each scan file."""
    pixels: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")], ...] = ()
    """First 16 hex digits of the SHA-256 over size and counts of each scan, which saving it anew does not change."""


class FileEntry(Part):
    sha256: Hex64
    size_bytes: Annotated[int, Field(gt=0)]


class Manifest(Part):
    """The signed content of `manifest.json`."""

    schema_version: Literal[1]
    model_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    created_at: AwareDatetime
    signing_key: Hex64
    """SHA-256 of the 32-byte public key: tells a wrong key from a changed manifest. Trust never comes from it."""
    input: Input
    conversion: Conversion
    labels: tuple[str, ...]
    policy: Thresholds
    scan_spec: ScanRange
    gate_map: GateMap
    reason_map: ReasonMap | None = None
    """None: the classifier has no such output."""
    precision: Literal["fp32", "fp16", "int8"]
    """What the graphs compute in; int8 means quantised activations too, of a quick pass."""
    quick_pass: QuickPass | None = None
    """None, unless the precision is int8: the graphs compute every scan in one way."""
    weights_storage: Literal["fp32", "fp16", "int8"]
    """How the weights lie in the file; they are expanded when the graph is loaded."""
    training: dict[str, str]
    """At least `data_digest`; further facts as text: seeds, recipes, figures."""
    tools: dict[str, str]
    learnt_from: LearntFrom = LearntFrom()
    """Empty in models of earlier releases, which do not say."""
    calibrated_on: LearntFrom = LearntFrom()
    """Empty where the thresholds are those of the training."""
    golden: Annotated[tuple[Golden, ...], Field(min_length=MIN_GOLDEN, max_length=16)]
    files: dict[FilePath, FileEntry]

    @field_validator("labels")
    @classmethod
    def _in_order(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if labels != LABELS:
            raise ValueError(f"labels are {list(labels)}, expected {list(LABELS)} in this order")
        return labels

    @field_validator("training")
    @classmethod
    def _traceable(cls, training: dict[str, str]) -> dict[str, str]:
        if not training.get("data_digest"):
            raise ValueError("no data_digest: it would not be known what the model learnt from")
        return training

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.input.channels != self.conversion.method.channels:
            raise ValueError(
                f"input has {self.input.channels} channels, "
                f"conversion {self.conversion.method} makes {self.conversion.method.channels}"
            )
        if (self.quick_pass is None) == (self.precision == "int8"):
            having = "no quick_pass" if self.quick_pass is None else "a quick_pass"
            raise ValueError(f"precision {self.precision} has {having}, expected one for int8 and for no other")
        if self.quick_pass is not None and (sure := self.quick_pass.sure_limits(self.policy)):
            raise ValueError(f"the quick pass was made for another policy: it is sure at its {', '.join(sure)}")
        golden = [entry.file for entry in self.golden]
        expected = {CLASSIFIER_FILE, GATE_FILE, *golden}
        if len(set(golden)) != len(golden) or expected != set(self.files):
            raise ValueError(f"files are {sorted(self.files)}, the manifest speaks of {sorted(expected)}")
        return self


def signed_json(signed: Part) -> bytes:
    """The bytes that are signed: sorted keys, two spaces, a newline at the end; made to be read and compared."""
    plain = signed.model_dump(mode="json", by_alias=True)
    return (json.dumps(plain, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Manifest of bytes whose signature was checked before. Raises ModelError naming `where` and the field."""
    content = _json_object(data, where)
    version = content.get("schema_version")
    if type(version) is not int or version < 1:
        raise ModelError(f"{where} has schema version {version!r}, expected {SCHEMA_VERSION}", hint=_EXPORT_AGAIN)
    if version > SCHEMA_VERSION:
        raise ModelError(
            f"{where} has schema version {version}, this program reads up to {SCHEMA_VERSION}",
            hint="the model is newer than this program: update the program, or export with an older release",
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise ModelError(f"{where}: {first_error(error, 'manifest')}", hint=_EXPORT_AGAIN) from None


def claimed_key(data: bytes) -> str | None:
    """Fingerprint of the key an *unverified* manifest says it was signed with: for an error message only."""
    try:
        claim = _json_object(data, "manifest").get("signing_key")
    except ModelError:
        return None
    return claim if isinstance(claim, str) and len(claim) == 64 and claim.isalnum() else None


def _json_object(data: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is not JSON: {error}", hint=_EXPORT_AGAIN) from None
    if not isinstance(content, dict):
        raise ModelError(f"{where} is not a JSON object", hint=_EXPORT_AGAIN)
    return content
