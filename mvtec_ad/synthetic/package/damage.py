"""What happens to a carton on the way: crushed, dented, sunken, torn, punctured, wet.

A dent is a smooth displacement of space around a point of the lid's rim or plane, so that the faces that meet there
move together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.package.faces import HEIGHT, LENGTH, WIDTH, Face, faces
from mvtec_ad.synthetic.package.scene import project
from mvtec_ad.synthetic.tools.damage import crack_path
from mvtec_ad.synthetic.tools.drawing import blend, fill, mix, noise, smooth_contour, smoothstep, stroke
from mvtec_ad.synthetic.tools.optics import normals

_FAINT = 0.0015  # of a dent's depth: what nobody would outline
_FIBRE = np.array([0.72, 0.69, 0.64], np.float32)  # the board under the print
_INSIDE = np.array([0.10, 0.10, 0.11], np.float32)


@dataclass(frozen=True)
class _Dent:
    centre: np.ndarray  # in the frame of the box
    radii: np.ndarray  # nothing moves beyond
    push: np.ndarray  # displacement of the centre
    waves: np.ndarray  # (n, 3) wave vectors of the folds, radians per centimetre
    phases: np.ndarray
    folds: float  # their share of the displacement

    def weight(self, points: np.ndarray) -> np.ndarray:
        """Returns 1 at the centre and 0 from the radii on; `points` has shape `(..., 3)`."""
        inside = np.clip(1 - np.square((points - self.centre) / self.radii).sum(-1), 0, None)
        return inside * inside

    def moved(self, points: np.ndarray) -> np.ndarray:
        """Returns the displacement of each point."""
        weight = self.weight(points)
        folds = np.sin(points @ self.waves.T + self.phases).mean(-1)
        return (weight * (1 + self.folds * folds))[..., None] * self.push


@dataclass(frozen=True)
class Damage:
    """One damage of one carton, in the frame of the box."""

    NODES: ClassVar[int] = 16  # per centimetre, at which displacements are calculated

    dent: _Dent
    pictures: dict[str, np.ndarray]  # the faces, damaged
    regions: dict[str, np.ndarray]  # 1 where a face is touched, 0 elsewhere
    support: np.ndarray  # points of the box, `(n, 3)`, around which everything happens

    @property
    def depth(self) -> float:
        """The largest displacement in centimetres."""
        return float(np.linalg.norm(self.dent.push)) * (1 + self.dent.folds)

    def moved(self, points: np.ndarray) -> np.ndarray:
        """Returns how far points `(..., 3)` of the box move."""
        return self.dent.moved(points)

    def shift(self, name: str, camera: np.ndarray) -> np.ndarray:
        """Returns how far the nodes of a face move on a canvas: float32 of shape `(rows, columns, 2)`."""
        points = faces()[name].grid(self.NODES)
        return (project(camera, points + self.moved(points)) - project(camera, points)).astype(np.float32)


def damage_of(rng: Generator, severity: float, good: dict[str, np.ndarray], pixels: float, lamp: np.ndarray) -> Damage:
    """Damages a carton.

    Args:
        rng: Stream of the defect.
        severity: From 0.1 to 1: size and contrast.
        good: The lit faces.
        pixels: Of the faces, per centimetre.
        lamp: Towards the light, in the frame of the box.

    Returns:
        The damage, with its own copies of the faces.
    """
    kind = rng.choice(list(_KINDS), p=[share for share, _ in _KINDS.values()])
    pictures = {name: picture.copy() for name, picture in good.items()}
    regions = {name: np.zeros(picture.shape[:2], np.float32) for name, picture in good.items()}
    dent = _KINDS[kind][1](rng, severity, pictures["top"], regions["top"], pixels)
    support = []
    for name, face in faces().items():
        nodes = face.grid(Damage.NODES)
        weight = dent.weight(nodes).astype(np.float32)
        if weight.any():
            _press(rng, dent, face, pictures[name], lamp)
            here = cv2.resize(weight, pictures[name].shape[1::-1], interpolation=cv2.INTER_LINEAR)
            np.maximum(regions[name], here > _FAINT, out=regions[name])
        region = cv2.resize(regions[name], weight.shape[::-1], interpolation=cv2.INTER_AREA)
        support.append(nodes[(weight > 0) | (region > 0)])
    return Damage(dent, pictures, regions, np.concatenate(support))


def _press(rng: Generator, dent: _Dent, face: Face, picture: np.ndarray, lamp: np.ndarray) -> None:
    """Shades a dented face, in place, and whitens its sharpest folds."""
    nodes = face.grid(Damage.NODES)
    height = (dent.moved(nodes) @ face.outward).astype(np.float32)
    slopes = normals(height, Damage.NODES)
    toward = np.array([lamp @ face.right, lamp @ face.down, lamp @ face.outward], np.float32) * [1.5, 1.5, 1]
    flat = 0.35 + 0.65 * max(float(toward[2]), 0)
    light = (0.35 + 0.65 * np.clip(np.tensordot(toward.astype(np.float32), slopes, 1), 0, None)) / np.float32(flat)
    light = (
        1 + 0.22 * np.tanh((light - 1) / 0.3) - 0.28 * np.clip(-height, 0, 1)
    )  # the hall lights every slope a little
    bent = np.abs(cv2.Laplacian(height, cv2.CV_32F)) * Damage.NODES**2
    worn = smoothstep(2.5, 9, bent) * np.clip(0.5 + 0.5 * noise(rng, height.shape, (20, 40), octaves=2), 0, 1)
    light, worn = (cv2.resize(layer - base, picture.shape[1::-1]) for layer, base in ((light, 1), (worn, 0)))
    picture *= (1 + light)[..., None]
    blend(picture, np.array([0.80, 0.81, 0.84]) * float(flat), 0.75 * worn)


def _dent(rng: Generator, centre: np.ndarray, radii: np.ndarray, push: np.ndarray, folds: float) -> _Dent:
    waves = rng.normal(0, 1, (4, 3)) * [1.3, 1.3, 0.6] * np.array([1.0, 1.0, 1.9, 2.4])[:, None]
    return _Dent(centre, radii, push, waves, rng.uniform(0, 2 * np.pi, 4), folds)


def _edge(rng: Generator, severity: float, *_: object) -> _Dent:
    """The lid's rim is crushed, at the end that faces the side camera or at a long side."""
    along, across = mix(1.1, 3.4, severity) * rng.uniform(0.85, 1.15), mix(0.8, 2.4, severity)
    depth, at = mix(0.09, 0.62, severity), rng.uniform(-0.7, 0.7)
    side = int(rng.choice([0, -1, 1], p=[0.5, 0.3, 0.2]))
    if side == 0:
        centre, radii = np.array([LENGTH / 2, at * WIDTH / 2, HEIGHT]), np.array([across * 1.3, along, across])
        return _dent(rng, centre, radii, np.array([-0.45 * depth, 0.0, -depth]), 0.7)
    centre, radii = np.array([1.0 + at * LENGTH / 3, side * WIDTH / 2, HEIGHT]), np.array([along, across, across])
    return _dent(rng, centre, radii, np.array([0.0, -0.45 * side * depth, -depth]), 0.7)


def _corner(rng: Generator, severity: float, *_: object) -> _Dent:
    """A corner of the lid is pushed in."""
    side, depth, reach = float(rng.choice([-1, 1])), mix(0.06, 0.85, severity), mix(0.6, 2.6, severity)
    radii = reach * rng.uniform(0.85, 1.25, 3)
    push = depth * np.array([-0.45, -0.45 * side, -1.0])
    return _dent(rng, np.array([LENGTH / 2, side * WIDTH / 2, HEIGHT]), radii, push, 0.5)


def _sunken(rng: Generator, severity: float, *_: object) -> _Dent:
    """The lid has given way under a weight."""
    centre = np.array([rng.uniform(-2.5, 3.6), rng.uniform(-1.2, 1.2), HEIGHT])
    radii = np.array([mix(1.2, 3.8, severity), mix(1.0, 2.6, severity), 1.5]) * rng.uniform(0.85, 1.15, 3)
    return _dent(rng, centre, radii, np.array([0.0, 0.0, -mix(0.07, 0.42, severity)]), 0.9)


def _spot(rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns a place on the lid, on its picture and in the frame of the box."""
    place = np.array([rng.uniform(0.25, 0.88) * LENGTH, rng.uniform(0.25, 0.75) * WIDTH])
    return place, np.array([place[0] - LENGTH / 2, WIDTH / 2 - place[1], HEIGHT])


def _torn(rng: Generator, severity: float, lid: np.ndarray, region: np.ndarray, pixels: float) -> _Dent:
    """The lid is slit: a gap with frayed board on both sides, and a lip that stands up."""
    place, centre = _spot(rng)
    length, heading = mix(0.7, 3.2, severity), rng.uniform(0, np.pi)
    ahead = np.array([np.cos(heading), np.sin(heading)])
    line = crack_path(rng, place - ahead * length / 2, heading, length, jag=0.3)
    shape = lid.shape[:2]
    frayed = stroke(line + np.array([0.03, 0.05]), mix(0.12, 0.44, severity), shape, pixels)
    gap = stroke(line, mix(0.03, 0.15, severity), shape, pixels)
    _open(rng, severity, lid, frayed, gap)
    np.maximum(region, frayed > 0, out=region)
    reach = np.array([0.35 + 0.5 * length, 0.35 + 0.5 * length, 1.0])
    return _dent(rng, centre, reach, np.array([0.0, 0.0, mix(0.03, 0.2, severity)]), 0.9)


def _punctured(rng: Generator, severity: float, lid: np.ndarray, region: np.ndarray, pixels: float) -> _Dent:
    """Something has gone through the lid."""
    place, centre = _spot(rng)
    outline = mix(0.12, 0.62, severity) * smooth_contour(rng, 0.3)
    shape = lid.shape[:2]
    frayed, gap = fill(place + 1.3 * outline, shape, pixels), fill(place + outline, shape, pixels)
    _open(rng, severity, lid, frayed, gap)
    np.maximum(region, frayed > 0, out=region)
    reach = np.array([1.0, 1.0, 1.0]) * mix(0.6, 1.5, severity)
    return _dent(rng, centre, reach, np.array([0.0, 0.0, -mix(0.05, 0.28, severity)]), 0.5)


def _open(rng: Generator, severity: float, lid: np.ndarray, frayed: np.ndarray, gap: np.ndarray) -> None:
    """Shows the board where the print is frayed, and the dark inside through the gap; in place."""
    fibres = noise(rng, frayed.shape, (40, 80), octaves=3)
    blend(lid, _FIBRE * (1 + 0.08 * fibres)[..., None], frayed * mix(0.5, 0.95, severity))
    blend(lid, _INSIDE, gap * mix(0.45, 0.95, severity))


def _wet(rng: Generator, severity: float, lid: np.ndarray, region: np.ndarray, pixels: float) -> _Dent:
    """Water has stained the lid, with a dark rim where it dried, and has made it wavy."""
    place, centre = _spot(rng)
    radius, shape = mix(0.5, 1.9, severity), lid.shape[:2]
    blot = fill(place + radius * np.array([1.25, 0.9]) * smooth_contour(rng, 0.22), shape, pixels)
    soft = cv2.GaussianBlur(blot, (0, 0), 0.08 * pixels)
    uneven = np.clip(0.65 + 0.4 * noise(rng, shape, (6, 12), octaves=4), 0.1, 1.3)
    rim = np.clip(4 * soft * (1 - soft), 0, 1) * uneven
    tone = mix(0.05, 0.17, severity) * soft * uneven + mix(0.05, 0.17, severity) * rim
    lid *= 1 - tone[..., None] * np.array([0.75, 0.95, 1.35], np.float32)
    np.maximum(region, soft > 0.05, out=region)
    return _dent(rng, centre, np.array([1.3, 1.0, 1.0]) * radius, np.array([0, 0, mix(0.02, 0.1, severity)]), 2.0)


# Share of the damaged items, and what does it to the lid's picture and region and returns the dent that goes with it.
_KINDS = {
    "edge": (0.32, _edge),
    "corner": (0.2, _corner),
    "sunken": (0.2, _sunken),
    "torn": (0.1, _torn),
    "punctured": (0.09, _punctured),
    "wet": (0.09, _wet),
}
