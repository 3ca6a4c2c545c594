"""Settings of node.yaml that are a number, a range, or `auto`; and what all its mappings have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from gslice.core.config.words import Percent, parsed, wrong
from gslice.core.types import INSTANCES_MAX
from gslice.core.units import parse_percent


class Section(BaseModel):
    """A mapping of the file: unknown keys are errors, numbers are not text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ShareRange(Section):
    """`share: {min: 20%, max: 60%}`."""

    min: Percent = Field(default=1.0, description="The least that it gets.")
    max: Percent = Field(default=100.0, description="The most.")

    @model_validator(mode="after")
    def _ordered(self) -> ShareRange:
        if self.min > self.max:
            raise wrong("min is above max")
        return self


def _share(value: Any) -> Any:
    if value == "auto":
        return ShareRange()
    if isinstance(value, dict):
        return value
    forms = "auto, 40% or {min: 20%, max: 60%}"
    parsed(value, parse_percent, forms, f"; a share is {forms}")
    return {"min": value, "max": value}


Share = Annotated[
    ShareRange,
    BeforeValidator(_share),
    PlainSerializer(lambda share: "auto" if share == ShareRange() else share, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?%$"},
                ShareRange.model_json_schema(mode="serialization"),
            ]
        }
    ),
]


class ReplicaRange(Section):
    """`replicas: {min: 1, max: 4}`."""

    min: int = Field(default=1, ge=1, le=INSTANCES_MAX, description="The fewest.")
    max: int = Field(default=INSTANCES_MAX, ge=1, le=INSTANCES_MAX, description="The most.")

    @model_validator(mode="after")
    def _ordered(self) -> ReplicaRange:
        if self.min > self.max:
            raise wrong("min is above max")
        return self


def _replicas(value: Any) -> Any:
    if value == "auto":
        return ReplicaRange()
    if isinstance(value, dict):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= INSTANCES_MAX:
        raise wrong(f"must be a number from 1 to {INSTANCES_MAX}, `auto`, or {{min: 1, max: 4}}")
    return {"min": value, "max": value}


Replicas = Annotated[
    ReplicaRange,
    BeforeValidator(_replicas),
    PlainSerializer(lambda range_: range_.min, when_used="json"),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "auto"},
                {"type": "integer", "minimum": 1, "maximum": INSTANCES_MAX},
                ReplicaRange.model_json_schema(),
            ]
        }
    ),
]
