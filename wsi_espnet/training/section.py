"""What all tables of a training file have in common, and the numbers that they hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """What all tables have in common: frozen, and no key but those listed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
