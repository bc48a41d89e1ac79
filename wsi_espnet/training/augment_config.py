"""What differs between two looks at an image, as frozen values."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from wsi_espnet.settings import NotNegative, Positive, Section, Share

Quality = Annotated[int, Field(ge=1, le=100)]
Side = Annotated[int, Field(ge=16, multiple_of=8)]


class AugmentConfig(Section):
    """What differs between two looks at an image.

    Parameters
    ----------
    crop_px
        (height, width) of what the network is given.
    scale
        Smallest and largest enlargement, drawn log-uniformly.
    flip
        Share of crops that are mirrored left to right.
    pose
        Turn by quarters and mirror at random: for tissue, which has no up. It needs square crops.
    brightness, contrast, saturation, hue
        Largest change, as a share (of the circle of hues for the last).
    white_balance
        Largest change of each of R, G and B for itself, as a share: light of another colour, another camera.
    gamma
        Largest power of the values 0..1, at least 1, and the inverse of the smallest: deeper and paler shadows.
    noise
        Largest standard deviation of noise in each value, of 255.
    jpeg_quality
        (lowest, highest) quality at which the crop is compressed as JPEG, as slides are; None leaves it as it is.
    stain_gain, stain_shift
        For H&E: the range by which each stain is scaled, and the largest shift in optical density.
    blank
        For tissue: share of crops of which a part is covered by glass, ink or black, in the class of glass.
    mosaic
        Share of crops that are put together from parts of four images, so that neighbours of another class are met.
    paste
        Share of crops that are given half the classes of another one, where they stand there: for streets.
    """

    crop_px: tuple[Side, Side]
    scale: tuple[Positive, Positive] = (0.5, 2.0)
    flip: Share = 0.5
    pose: bool = False
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    white_balance: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gamma: Annotated[float, Field(ge=1, le=4)] = 1.0
    noise: NotNegative = 0.0
    jpeg_quality: tuple[Quality, Quality] | None = None
    stain_gain: tuple[Positive, Positive] | None = None
    stain_shift: NotNegative = 0.0
    blank: Share = 0.0
    mosaic: Share = 0.0
    paste: Share = 0.0

    @model_validator(mode="after")
    def _ensure_rising_ranges(self) -> AugmentConfig:
        for name, span in (
            ("scale", self.scale),
            ("stain_gain", self.stain_gain),
            ("jpeg_quality", self.jpeg_quality),
        ):
            if span is not None and span[0] > span[1]:
                raise ValueError(f"{name} must be (smallest, largest), got {span}")
        return self

    @model_validator(mode="after")
    def _ensure_poses_are_square(self) -> AugmentConfig:
        if self.pose and self.crop_px[0] != self.crop_px[1]:
            raise ValueError(f"pose turns by quarters and needs a square crop_px, got {self.crop_px}")
        return self
