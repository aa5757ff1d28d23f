"""Cable: the section of a three-core power cable, seen from above on a dark table.

Its parts are in `cable_parts`, their light in `cable_section`. A defect edits the parts before they are shaded. Two
defects cannot be hard to see in full, a swapped pair of conductors and a missing one. There severity sets how far the
colours have changed sides, and how deep a conductor has slipped back: still dimly lit, or gone.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.products.cable_parts import CONDUCTOR, CORE, SHEATH, Cable, Cut, Wire, manufacture
from mvtec_ad.synthetic.products.cable_section import render
from mvtec_ad.synthetic.tools.drawing import OVERSAMPLING, Streams, fill, mix, smooth_contour, stroke, to_mask
from mvtec_ad.synthetic.tools.optics import camera

DEFECTS = (
    "bent_wire",
    "cable_swap",
    "combined",
    "cut_inner_insulation",
    "cut_outer_insulation",
    "missing_cable",
    "missing_wire",
    "poke_insulation",
)


def draw(streams: Streams, size: int, defect: str | None, severity: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws one cable; see `products`."""
    cable = manufacture(streams, size)
    mask = np.zeros((size, size), bool)
    if defect:
        order = [int(place) for place in streams.defect.permutation(3)]
        mask = to_mask(_EDITS[defect](streams.defect, severity, cable, order))
    return camera(render(cable), streams.sensor, blur=0.0020, grain=0.009), mask


def _disc(cable: Cable, centre: np.ndarray, radius: float) -> np.ndarray:
    side = OVERSAMPLING * len(cable.grain)
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    return fill(centre + radius * np.column_stack([np.cos(angle), np.sin(angle)]), (side, side), side)


def _ray(angle: float | np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _bent_wire(rng: Generator, severity: float, cable: Cable, order: list[int]) -> np.ndarray:
    """Strands at the edge of a bundle bend out over the insulation; their ends in the bundle are gone."""
    conductor, side = cable.conductors[order[0]], OVERSAMPLING * len(cable.grain)
    strands = conductor.strands
    towards, region = rng.uniform(0, 2 * np.pi), 0.0
    order = np.argsort(-strands.centre @ _ray(towards))
    for strand in order[: 1 + int(severity * rng.uniform(0, 3.0))]:
        root = conductor.centre + conductor.core + strands.centre[strand]
        heading = towards + rng.normal(0, 0.35)
        ahead, aside = _ray(heading), _ray(heading + np.pi / 2)
        t = np.linspace(0, 1, 28)[:, None]
        reach = mix(0.012, 0.100, severity) * rng.uniform(0.85, 1.15)
        path = root + reach * (t * ahead + rng.normal(0, 0.35) * t * t * aside)
        radius = float(strands.radius[strand]) * mix(0.70, 0.85, severity)
        cable.wires.append(Wire(path, radius, float(strands.tone[strand])))
        strands.sunk[strand] = 0.8
        line = np.concatenate([path[:1] - radius * ahead, path, path[-1:] + radius * ahead])
        region = np.maximum(region, stroke(line, 3.0 * radius, (side, side), side))
        for end in (root, path[-1]):
            region = np.maximum(region, _disc(cable, end, 1.6 * radius))
    return region


def _cable_swap(rng: Generator, severity: float, cable: Cable, order: list[int]) -> np.ndarray:
    """Two conductors change places."""
    first, other = (cable.conductors[place] for place in order[:2])
    far = mix(0.35, 1.0, severity)
    first.pigment, other.pigment = (
        first.pigment + far * (other.pigment - first.pigment),
        other.pigment + far * (first.pigment - other.pigment),
    )
    first.strands, other.strands = other.strands, first.strands
    first.core, other.core = other.core, first.core
    return np.maximum(_disc(cable, first.centre, CONDUCTOR), _disc(cable, other.centre, CONDUCTOR))


def _cut_inner_insulation(rng: Generator, severity: float, cable: Cable, order: list[int]) -> np.ndarray:
    """A notch in the insulation of one conductor, from its outside inwards."""
    conductor = cable.conductors[order[0]]
    depth = mix(0.35, 1.0, severity) * (CONDUCTOR - CORE)
    return _notch(rng, severity, cable, (conductor.centre, CONDUCTOR), (mix(0.018, 0.105, severity), depth))


def _cut_outer_insulation(rng: Generator, severity: float, cable: Cable, order: list[int]) -> np.ndarray:
    """A notch in the sheath: a slit, or a wide piece cut off."""
    wide = rng.uniform(0.5, 1.0)
    return _notch(
        rng, severity, cable, (cable.centre, SHEATH), (wide * mix(0.025, 0.26, severity), mix(0.014, 0.06, severity))
    )


def _notch(
    rng: Generator, severity: float, cable: Cable, ring: tuple[np.ndarray, float], extent: tuple[float, float]
) -> np.ndarray:
    """Cuts a ring (centre, outer radius) open over some extent (along the ring, inwards)."""
    (centre, radius), (width, depth) = ring, extent
    start, turn = rng.uniform(0, 2 * np.pi), width / radius
    t = np.sort(np.concatenate([[0.0, 0.08, 0.92, 1.0], rng.uniform(0.1, 0.9, 7)]))
    inner = depth * np.clip(rng.normal(0.92, 0.06, t.size) + rng.normal(0, 0.3) * (t - 0.5), 0.4, 1.0)
    inner[[0, -1]] = 0
    lean = rng.normal(0, 0.25) * inner / radius  # the knife did not point at the middle
    near = centre + (radius - inner)[:, None] * _ray(start + turn * (t - 0.5) + lean)
    far = centre + (radius + 0.003) * _ray(start + turn * np.linspace(0.5, -0.5, 24))
    return _remove(rng, severity, cable, np.concatenate([near, far]), _ray(start))


def _remove(rng: Generator, severity: float, cable: Cable, outline: np.ndarray, outwards: np.ndarray) -> np.ndarray:
    """Takes the material inside an outline away, with what lies around it raised a little."""
    side = OVERSAMPLING * len(cable.grain)
    dark, lip = mix(0.35, 0.8, severity), mix(0.0004, 0.0022, severity)
    cable.cuts.append(Cut(outline, outwards, dark, lip, rng.normal(0, 1, (7, 7))))
    middle = outline.mean(0)
    far = np.linalg.norm(outline - middle, axis=1, keepdims=True)
    return fill(outline + 0.006 * (outline - middle) / far, (side, side), side)


def _missing_cable(rng: Generator, severity: float, cable: Cable, order: list[int]) -> np.ndarray:
    """One conductor has slipped back into the cable, or is gone."""
    conductor = cable.conductors[order[0]]
    conductor.sunk = mix(0.4, 1.0, severity)
    return _disc(cable, conductor.centre, CONDUCTOR)


def _missing_wire(rng: Generator, severity: float, cable: Cable, order: list[int]) -> np.ndarray:
    """Some strands of one bundle, side by side, are missing."""
    conductor = cable.conductors[order[0]]
    strands = conductor.strands
    chosen = strands.centre[rng.integers(len(strands.centre))]
    order = np.argsort(np.linalg.norm(strands.centre - chosen, axis=1))
    gone = order[: 1 + int(severity * rng.uniform(1.5, 8.0))]
    strands.sunk[gone] = mix(0.5, 1.0, severity)
    spots = conductor.centre + conductor.core + strands.centre[gone]
    return np.max([_disc(cable, spot, r) for spot, r in zip(spots, strands.radius[gone], strict=True)], axis=0)


def _poke_insulation(rng: Generator, severity: float, cable: Cable, order: list[int]) -> np.ndarray:
    """A small hole in an insulation, its edge raised."""
    conductor = cable.conductors[order[0]]
    middle = conductor.centre + mix(CORE, CONDUCTOR, rng.uniform(0.35, 0.65)) * _ray(rng.uniform(0, 2 * np.pi))
    radius = mix(0.007, 0.025, severity) * rng.uniform(0.85, 1.15)
    return _remove(rng, severity, cable, middle + radius * smooth_contour(rng, 0.13), np.zeros(2))


def _combined(rng: Generator, severity: float, cable: Cable, order: list[int]) -> np.ndarray:
    """Two other defects; where both concern conductors, they are different ones."""
    pair = rng.choice(len(_SINGLE), 2, replace=False)
    regions = [_SINGLE[kind](rng, severity, cable, order[turn:] + order[:turn]) for turn, kind in enumerate(pair)]
    return np.maximum(*regions)


_SINGLE = (
    _bent_wire,
    _cut_inner_insulation,
    _cut_outer_insulation,
    _missing_cable,
    _missing_wire,
    _poke_insulation,
)
_EDITS = dict(
    zip(
        DEFECTS,
        (
            _bent_wire,
            _cable_swap,
            _combined,
            _cut_inner_insulation,
            _cut_outer_insulation,
            _missing_cable,
            _missing_wire,
            _poke_insulation,
        ),
        strict=True,
    )
)
