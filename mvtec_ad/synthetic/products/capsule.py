"""Capsule: a black cap on an orange body lies across a bright table, printed along its axis.

It is drawn in its own frame, a strip with the axis along the rows (`capsule_surface`), which is then laid onto the
table. A defect edits the surface before it is shaded.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.products.capsule_surface import (
    CORNER,
    DENT_REACH,
    HALF_LENGTH,
    PRINTS,
    RADIUS,
    Capsule,
    Edit,
    Lamps,
    appearance,
    cut,
    dimples,
    dust,
    printed,
    strip,
    wrapped,
)
from mvtec_ad.synthetic.tools.damage import crack_path
from mvtec_ad.synthetic.tools.drawing import (
    OVERSAMPLING,
    Streams,
    bump,
    fill,
    mix,
    noise,
    smooth_contour,
    smoothstep,
    stroke,
    to_mask,
)
from mvtec_ad.synthetic.tools.optics import camera, uneven_light

DEFECTS = ("crack", "faulty_imprint", "poke", "scratch", "squeeze")


def draw(streams: Streams, size: int, defect: str | None, severity: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws one capsule; see `products`."""
    pose, side = streams.pose, size * OVERSAMPLING
    scale, tilt = 1 + 0.006 * float(pose.normal()), 0.014 * float(pose.normal())
    centre = 0.5 + 0.006 * pose.normal(size=2)
    capsule = _manufacture(streams, side * scale)

    colour, outline = appearance(capsule, Edit())
    region = np.zeros_like(outline)
    canvas = _table(streams, size, centre)
    if defect:
        region = _damage(_EDITS[defect](streams.defect, severity, capsule), capsule, colour, outline)
    top = int(side * (centre[1] - RADIUS - 0.05))  # the capsule lies within these rows of the canvas
    rows = slice(top, top + int(side * 2 * (RADIUS + 0.05)))
    middle = np.array([outline.shape[1] - 1, outline.shape[0] - 1]) / 2
    rotation = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    place = np.column_stack([rotation, centre * side - 0.5 - [0, top] - rotation @ middle])
    band = (side, rows.stop - top)
    laid = cv2.warpAffine(np.dstack([colour * outline[..., None], outline]), place, band)
    canvas[rows] *= 1 - laid[..., 3:]
    canvas[rows] += laid[..., :3]
    image = camera(canvas, streams.sensor, blur=0.0018, grain=0.010)
    cover = np.zeros((side, side), np.float32)
    cover[rows] = cv2.warpAffine(region, place, band)
    return image, to_mask(cover) if defect else np.zeros((size, size), bool)


def _damage(edit: Edit, capsule: Capsule, colour: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Edits the capsule's colour and outline in place. Returns the region of the defect, 0 to 1."""
    touched = np.flatnonzero(edit.region.any(0))
    columns = slice(max(touched[0] - 3, 0), touched[-1] + 4)
    bad, bad_outline = appearance(*cut(capsule, edit, columns))
    inside = edit.region[:, columns] > 0
    region = np.zeros_like(outline)
    region[:, columns] = inside * np.maximum(outline[:, columns], bad_outline)
    colour[:, columns][inside] = bad[inside]
    outline[:, columns][inside] = bad_outline[inside]
    return region


def _manufacture(streams: Streams, pixels: float) -> Capsule:
    pose, light, surface = streams.pose, streams.light, streams.surface
    u, v = strip(pixels)
    shape = (v.size, u.size)
    roll = float(np.clip(pose.normal(0, 0.22), -0.55, 0.55))
    lamps = Lamps(
        height=np.array([-0.60, -0.80]) + light.normal(0, 0.02, 2),
        width=np.array([0.05, 0.03]) * light.uniform(0.8, 1.25, 2),
        strength=np.array([0.62, 0.22]) * light.uniform(0.75, 1.2, 2),
        lean=float(light.normal(0, 0.03)),
        reach=float(light.uniform(0.45, 0.62)),
    )
    batch = surface.normal(0, 1, 3)
    relief = 0.0008 * noise(surface, shape, (3, 5), octaves=3, persistence=0.4) + dimples(surface, shape, pixels)
    return Capsule(
        u,
        v,
        pixels,
        seam=-0.012 + 0.003 * float(batch[0]),
        orange=np.array([0.80, 0.335, 0.105], np.float32) * np.float32(1 + 0.03 * batch[1])
        + np.float32(0.012 * batch[2]) * np.array([0, 1, 0.4], np.float32),
        sheet=printed(surface, pixels, u.size, roll),
        lamps=lamps,
        relief=relief.astype(np.float32),
        fill=float(surface.uniform(0.24, 0.38)),
        powder=0.038 * noise(surface, shape, (4, 10), octaves=5, persistence=0.65),
        dust=dust(surface, shape, pixels),
    )


def _table(streams: Streams, size: int, centre: np.ndarray) -> np.ndarray:
    """Returns the lit table with the capsule's shadow, `(side, side, 3)`; a defect does not change it."""
    light, coarse = streams.light, 128  # cells are enough for something so smooth
    plane = light.uniform(0.80, 0.87) * uneven_light(light, coarse // OVERSAMPLING, fall=0.05)
    tint = np.array([1.0, 0.995, 0.985]) * (1 + 0.006 * light.normal(size=3))
    axis = (np.arange(coarse) + 0.5) / coarse
    x, y = axis[None, :] - centre[0] - light.normal(0, 0.006), axis[:, None] - centre[1]
    beyond = np.clip(np.abs(x) - HALF_LENGTH + RADIUS, 0, None)
    wide = smoothstep(RADIUS + 0.09, RADIUS - 0.06, np.hypot(beyond, y - light.uniform(0.02, 0.04)))
    near = smoothstep(RADIUS + 0.022, RADIUS - 0.02, np.hypot(beyond, y - 0.010)) * smoothstep(-0.05, 0.12, y)
    grain = 0.006 * noise(streams.surface, (coarse, coarse), (8, 8), octaves=4, persistence=0.7)
    table = (plane * (1 - 0.22 * wide - 0.30 * near + grain))[..., None] * tint
    return cv2.resize(table.astype(np.float32), (size * OVERSAMPLING,) * 2, interpolation=cv2.INTER_LINEAR)


def _wide(cover: np.ndarray, by: float, pixels: float) -> np.ndarray:
    """Returns the cover, widened by a length."""
    reach = 2 * max(1, round(by * pixels)) + 1
    return cv2.dilate(cover, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))


def _anywhere(rng: Generator) -> np.ndarray:
    """Returns a point of the visible surface, measured from the strip's corner."""
    return CORNER + np.array([rng.uniform(-0.33, 0.33), rng.uniform(-0.085, 0.085)])


def _crack(rng: Generator, severity: float, capsule: Capsule) -> Edit:
    """The shell is broken along a line, at times from the rim of the cap: a gap, and one lip that stands up."""
    shape, pixels = (capsule.v.size, capsule.u.size), capsule.pixels
    start, heading = _anywhere(rng), float(rng.uniform(0, 2 * np.pi))
    if rng.uniform() < 0.4:
        start[0], heading = CORNER[0] + capsule.seam, np.pi + float(rng.normal(0, 0.35))
    line = crack_path(rng, start, heading, mix(0.035, 0.19, severity) * rng.uniform(0.8, 1.2), jag=0.5)
    width, lip = mix(0.0016, 0.0095, severity), mix(0.0010, 0.0060, severity)
    aside = rng.choice([-1, 1]) * np.array([-np.sin(heading), np.cos(heading)])
    half_gap = width * (np.linspace(1.5, 0.1, len(line)) * rng.uniform(0.6, 1.2, len(line)))[:, None] * aside / 2
    gap = fill(np.concatenate([line - half_gap, (line + half_gap)[::-1]]), shape, pixels)
    raised = stroke(line + 1.5 * width * aside, 3 * width, shape, pixels)
    raised = cv2.GaussianBlur(raised, (0, 0), 0.9 * width * pixels)
    edge = stroke(line + half_gap, 0.55 * width, shape, pixels)
    return Edit(
        _wide(np.maximum(np.maximum(gap, edge), raised > 0.25).astype(np.float32), 0.002, pixels),
        relief=lip * raised,
        pit=mix(0.35, 0.65, severity) * gap,
        gap=mix(0.3, 0.95, severity) * gap,
        scuff=mix(0.25, 0.9, severity) * edge,
    )


def _faulty_imprint(rng: Generator, severity: float, capsule: Capsule) -> Edit:
    """One print, or a part of it, is smeared, doubled, partly missing or in the wrong place."""
    sheet, pixels = capsule.sheet, capsule.pixels
    rows, columns = sheet.shape
    place = CORNER[0] + PRINTS[int(rng.integers(2))][1]
    half = smoothstep(0.19, 0.17, np.abs((np.arange(columns) + 0.5) / pixels - place)).astype(np.float32)[None, :]
    angle, kind = rng.uniform(0, 2 * np.pi), int(rng.integers(4))
    patch = noise(rng, sheet.shape, (7, 13), octaves=3)

    def moved(by: float) -> np.ndarray:
        matrix = np.array([[1, 0, by * np.cos(angle) * pixels], [0, 1, by * np.sin(angle) * pixels]])
        return cv2.warpAffine(sheet * half, matrix, (columns, rows))

    if kind == 0:  # smeared while wet
        tail = sum(moved(mix(0.01, 0.06, severity) * step / 12) for step in range(13)) / 13
        new = np.maximum(sheet * half * mix(0.9, 0.35, severity), mix(0.8, 1.5, severity) * tail)
    elif kind == 1:  # doubled
        new = np.maximum(sheet * half, mix(0.2, 0.85, severity) * moved(mix(0.008, 0.035, severity)))
    elif kind == 2:  # partly missing
        threshold = np.quantile(patch[sheet * half > 0.3], 1 - mix(0.12, 0.75, severity))
        bare = smoothstep(-0.15, 0.15, patch - threshold)
        new = sheet * half * (1 - mix(0.5, 1.0, severity) * bare)
    else:  # misplaced
        new = moved(mix(0.008, 0.07, severity))
    sheet = sheet * (1 - half) + np.clip(new, 0, 1) * (half > 0)
    sine = np.clip(capsule.v / RADIUS, -1, 1) * np.ones_like(capsule.u)
    return Edit(sheet=sheet.astype(np.float32), region=_changed(capsule, sheet.astype(np.float32), sine))


def _changed(capsule: Capsule, sheet: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Returns where two prints differ, closed to whole letters."""
    change = np.abs(wrapped(capsule, sheet, sine) - wrapped(capsule, capsule.sheet, sine))
    wide = _wide((change > min(0.04, 0.5 * float(change.max()))).astype(np.float32), 0.006, capsule.pixels)
    return 1 - _wide(1 - wide, 0.003, capsule.pixels)


def _poke(rng: Generator, severity: float, capsule: Capsule) -> Edit:
    """Something sharp has pressed a dent into the shell, with a hole in its middle and a raised rim."""
    shape, pixels = (capsule.v.size, capsule.u.size), capsule.pixels
    middle, radius = _anywhere(rng), mix(0.008, 0.030, severity) * float(rng.uniform(0.85, 1.15))
    outline = smooth_contour(rng, 0.10) * np.array([1.0, rng.uniform(0.7, 1.0)])
    hole_at = middle + 0.2 * radius * rng.normal(0, 1, 2)
    crater = cv2.GaussianBlur(fill(middle + 0.75 * radius * outline, shape, pixels), (0, 0), 0.28 * radius * pixels)
    rim = cv2.GaussianBlur(fill(middle + 1.05 * radius * outline, shape, pixels), (0, 0), 0.12 * radius * pixels)
    hole = fill(hole_at + mix(0.2, 0.30, severity) * radius * smooth_contour(rng, 0.2), shape, pixels)
    torn = np.clip(_wide(hole, 0.0015, pixels) - hole, 0, 1)
    return Edit(
        (fill(middle + 1.4 * radius * outline, shape, pixels) > 0.5).astype(np.float32),
        relief=radius * mix(0.3, 0.95, severity) * (0.45 * rim - crater),
        pit=mix(0.4, 0.9, severity) * hole + mix(0.03, 0.12, severity) * crater * (1 - hole),
        scuff=mix(0.2, 0.7, severity) * torn,
    )


def _scratch(rng: Generator, severity: float, capsule: Capsule) -> Edit:
    """Fine grooves side by side: torn gelatin, dull and pale, with glints on its edges."""
    shape, pixels = (capsule.v.size, capsule.u.size), capsule.pixels
    middle, slant = _anywhere(rng), rng.uniform(0, np.pi)
    ahead = np.array([np.cos(slant), np.sin(slant)])
    aside = np.array([-ahead[1], ahead[0]])
    t = np.linspace(-1, 1, 24)[:, None]
    grooves = np.zeros(shape, np.float32)
    for _ in range(2 + int(rng.integers(2, 8) * severity)):
        offset = rng.normal(0, 1, 2) * np.array([0.02, 0.012]) * mix(0.5, 1.6, severity)
        reach, bend = mix(0.014, 0.08, severity) * rng.uniform(0.5, 1.1), rng.normal(0, 0.12)
        turn = ahead + rng.normal(0, 0.12) * aside
        line = middle + offset[0] * ahead + offset[1] * aside + reach * (t * turn + bend * t * t * aside)
        width = mix(0.0018, 0.0042, severity) * rng.uniform(0.6, 1.2)
        grooves = np.maximum(grooves, rng.uniform(0.5, 1) * stroke(line, width, shape, pixels))
    ragged = np.clip(0.9 + 0.35 * noise(rng, shape, (24, 60), octaves=2), 0, 1)
    return Edit(
        _wide((grooves > 0.15).astype(np.float32), 0.003, pixels),
        relief=-mix(0.0003, 0.0020, severity) * cv2.GaussianBlur(grooves, (0, 0), 0.0012 * pixels),
        scuff=mix(0.2, 1.0, severity) * grooves * ragged,
    )


def _squeeze(rng: Generator, severity: float, capsule: Capsule) -> Edit:
    """One side of the shell is pressed in: the outline, the highlights and the print follow, with a crease."""
    pixels, shape = capsule.pixels, (capsule.v.size, capsule.u.size)
    middle, side = float(rng.uniform(-0.27, 0.27)), int(rng.choice([-1, 1]))
    half, depth = mix(0.05, 0.15, severity) * float(rng.uniform(0.8, 1.2)), mix(0.004, 0.036, severity)
    skew = 1 + 0.3 * np.tanh((capsule.u - middle) / half) * rng.choice([-1, 1])
    dent = depth * bump((capsule.u - middle) * skew, 0, half)
    inward = smoothstep(-DENT_REACH * RADIUS, RADIUS, capsule.v * side + dent)
    crease_at = CORNER + np.array([middle, side * RADIUS * rng.uniform(0.25, 0.5)])
    t = np.linspace(-1, 1, 24)[:, None]
    arc = crease_at + half * 0.6 * t * [1, 0] + side * 0.02 * t * t * [0, 1] + 0.003 * rng.normal(0, 1, 2) * t
    crease = cv2.GaussianBlur(stroke(arc, 0.012, shape, pixels), (0, 0), 0.008 * pixels)
    region = (dent * inward > 0.05 * depth).astype(np.float32)
    return Edit(region, dent=dent.astype(np.float32), side=side, relief=-mix(0.0006, 0.005, severity) * crease)


_EDITS = dict(zip(DEFECTS, (_crack, _faulty_imprint, _poke, _scratch, _squeeze), strict=True))
