"""A biopsy-like slide of colon glands, composed from the one histological picture that scikit-image ships.

The picture, `skimage.data.immunohistochemistry`, shows colon glands in which a protein is brown (DAB) and
nuclei are blue (haematoxylin); it has no known copyright restrictions. It is not H&E. Its stains are
separated, haematoxylin is kept, DAB and everything that is not glass are redrawn as eosin. So the result has
the colours of H&E and the morphology of one spot of one slide, mirrored, bent and repeated: good enough to
see every step of the software work, and no evidence of how well a model does.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
import skimage.data
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage as ndi
from skimage.color import hed2rgb, rgb2hed

MPP = 0.62005
"""um per px of the slide: that of the GlaS images (Sirinukunwattana et al., Med Image Anal 2017)."""
PICTURE_PX = 384
"""Side that the 512 px picture is shrunk to: the height of its epithelium is then that in GlaS images, 75
px."""
SHAPE = (5120, 6144)
"""(height, width) of the slide in px, 3.2 x 3.8 mm."""
COVERAGE = 0.33
"""Share of the slide that is tissue."""
NODE = 16  # px between the nodes of the coarse fields that shape islands, bends and stain
BENDS = (
    (60.0, 500.0),
    (220.0, 1800.0),
)  # how far in px, and over which distance, the repeated picture is bent
EDGE = 0.02  # width of the soft edge of tissue, in units of the island field
GLASS = (243.0, 242.0, 244.0)
TILE = 256
QUALITY = 85
DOWNSAMPLES = (1, 4, 16)

Floats = NDArray[np.floating[Any]]
Rgb = NDArray[np.uint8]


def colon_slide(*, seed: int = 7, shape: tuple[int, int] = SHAPE) -> bytes:
    """The bytes of an Aperio-like SVS: pyramidal JPEG tiles, 20x, 0.62005 um per px.

    Parameters
    ----------
    seed
        What the islands and bends are drawn from; the same seed gives the same slide.
    shape
        (height, width) in px, multiples of 256.
    """
    return _encode(_compose(he_picture(), shape, np.random.default_rng(seed)))


def he_picture() -> Rgb:
    """The picture in the colours of H&E: uint8 (384, 384, 3).

    The factors were set by eye and by the quantiles of the three stains beside GlaS images.
    """
    picture = skimage.data.immunohistochemistry()  # type: ignore[no-untyped-call]  # it has no annotations
    haematoxylin, _, dab = np.moveaxis(np.maximum(rgb2hed(picture), 0), 2, 0)
    darkness = -np.log10(np.maximum(picture, 1) / 255).mean(axis=2)
    anything = np.clip((ndi.gaussian_filter(darkness, 1.2) - 0.04) / 0.05, 0, 1)  # 0 on glass and in lumens
    eosin = 0.28 * dab + 0.045 * anything
    nuclei = 2.0 * np.maximum(haematoxylin - 0.012, 0) + 0.08 * dab
    stains = np.stack([nuclei, eosin, 0.28 * eosin], axis=2)  # eosin is less violet than the matrix has it
    rgb = np.rint(np.clip(hed2rgb(stains), 0, 1) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(rgb).resize((PICTURE_PX, PICTURE_PX), Image.Resampling.LANCZOS))


def _compose(picture: Rgb, shape: tuple[int, int], rng: np.random.Generator) -> Rgb:
    """The whole slide, uint8 (h, w, 3): islands of tissue on glass."""
    quarter = np.concatenate([picture, picture[:, ::-1]], axis=1)
    endless = np.concatenate([quarter, quarter[::-1]]).astype(np.float32)  # repeats without seams
    island, limit = _islands(shape, rng)
    bend_y, bend_x = (_bend(shape, rng) for _ in range(2))
    glass = [np.array(GLASS) + rng.normal(0, 1.2, (TILE, TILE, 3)) for _ in range(8)]
    stain = 1 + 0.12 * _noise(shape, rng, 400.0)
    out = np.empty((*shape, 3), dtype=np.uint8)
    for y in range(0, shape[0], TILE):
        for x in range(0, shape[1], TILE):
            cover = np.clip((_spread(island, y, x) - limit) / EDGE + 0.5, 0, 1)[..., None]
            tile: Floats = glass[(y // TILE * 3 + x // TILE) % len(glass)]
            if cover.any():
                tissue = _sample(endless, y + _spread(bend_y, y, x), x + _spread(bend_x, y, x))
                tissue = 255 * (tissue / 255) ** _spread(stain, y, x)[..., None]
                tile = tissue * cover + tile * (1 - cover)
            out[y : y + TILE, x : x + TILE] = np.clip(np.rint(tile), 0, 255)
    return out


def _sample(endless: Floats, dy: Floats, dx: Floats) -> Floats:
    """The endless picture at bent coordinates, the tile's corner included in them: (256, 256, 3)."""
    at = np.stack([dy + np.arange(TILE)[:, None], dx + np.arange(TILE)[None, :]])
    return np.stack([ndi.map_coordinates(endless[..., c], at, order=1, mode="grid-wrap") for c in range(3)], axis=2)


def _bend(shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    (far, over), (farther, wider) = BENDS
    return far * _noise(shape, rng, over) + farther * _noise(shape, rng, wider)


def _noise(shape: tuple[int, int], rng: np.random.Generator, scale_px: float) -> Floats:
    """Smooth noise on the nodes, mean 0, standard deviation 1, that varies over `scale_px`."""
    nodes = [side // NODE + 1 for side in shape]
    field = ndi.gaussian_filter(rng.normal(size=nodes), scale_px / NODE / 2)
    normal: Floats = ((field - field.mean()) / field.std()).astype(np.float32)
    return normal


def _islands(shape: tuple[int, int], rng: np.random.Generator) -> tuple[Floats, float]:
    """A field on the nodes and the limit above which there is tissue; small crumbs are taken away."""
    y, x = (np.linspace(-1, 1, side // NODE + 1) for side in shape)
    field = _noise(shape, rng, 900.0) + 0.35 * _noise(shape, rng, 220.0) + 0.06 * _noise(shape, rng, 40.0)
    field = field - 4 * np.maximum(np.maximum(np.abs(y)[:, None], np.abs(x)[None, :]) - 0.8, 0) / 0.2
    limit = float(np.quantile(field, 1 - COVERAGE))
    pieces, n = ndi.label(field > limit)
    sizes = np.bincount(pieces.ravel(), minlength=n + 1)
    crumb = (sizes < 0.01 * field.size)[pieces] & (pieces > 0)
    return np.where(crumb, limit - 1, field).astype(np.float32), limit


def _spread(field: Floats, y: int, x: int) -> Floats:
    """The part of a field of nodes that belongs to the tile at (y, x), bilinear: (256, 256)."""
    n = TILE // NODE
    part = field[y // NODE : y // NODE + n + 1, x // NODE : x // NODE + n + 1]
    at = (np.arange(TILE) + 0.5) / NODE
    low = at.astype(np.int64)
    weight = (at - low).astype(np.float32)
    rows = part[low] * (1 - weight)[:, None] + part[low + 1] * weight[:, None]
    out: Floats = rows[:, low] * (1 - weight) + rows[:, low + 1] * weight
    return out


def _encode(slide: Rgb) -> bytes:
    """The slide as an SVS that OpenSlide reads as Aperio: levels and, as its second page, a thumbnail."""
    h, w = slide.shape[:2]
    head = "Aperio Image Library v12.0.15 \r\n"
    name = f"{head}{w}x{h} [0,0 {w}x{h}] ({TILE}x{TILE}) JPEG/RGB Q={QUALITY}|AppMag = 20|MPP = {MPP}"
    small = np.asarray(Image.fromarray(slide).reduce(DOWNSAMPLES[-1]))
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tif:
        _write_level(tif, slide, name)
        tif.write(
            small,
            photometric="rgb",
            compression="jpeg",
            rowsperstrip=16,
            description=f"{head}{w}x{h} -> {small.shape[1]}x{small.shape[0]} - ",
            metadata=None,
            software=False,
        )
        for downsample in DOWNSAMPLES[1:]:
            level = np.asarray(Image.fromarray(slide).reduce(downsample))
            _write_level(tif, level, name.replace("] (", f"] -> {level.shape[1]}x{level.shape[0]} ("))
    return file.getvalue()


def _write_level(tif: tifffile.TiffWriter, level: Rgb, description: str) -> None:
    tif.write(
        _tiles(level),
        shape=level.shape,
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="ycbcr",
        subsampling=(2, 1),
        compression="jpeg",
        description=description,
        metadata=None,
        software=False,
    )


def _tiles(level: Rgb) -> Iterator[bytes]:
    padded = np.pad(level, ((0, -level.shape[0] % TILE), (0, -level.shape[1] % TILE), (0, 0)), mode="edge")
    for y in range(0, padded.shape[0], TILE):
        for x in range(0, padded.shape[1], TILE):
            tile = np.ascontiguousarray(padded[y : y + TILE, x : x + TILE])
            jpeg = imagecodecs.jpeg8_encode(
                tile, level=QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="422"
            )
            yield bytes(jpeg)
