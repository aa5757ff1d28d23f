"""The chain of a zipper: small solid teeth, set one by one into a height map and lit."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from mvtec_ad.synthetic.products.zipper_fabric import TAPE, Lamp, Pose
from mvtec_ad.synthetic.tools.drawing import Streams, canvas_grid, noise, smoothstep
from mvtec_ad.synthetic.tools.optics import normals, shade

_PITCH = 1 / 15  # of the teeth on one tape
_HEAD, _FOOT = -0.031, 0.086  # where a tooth begins and ends, from the axis outwards
_CHAIN = 0.145  # half the width in which teeth may lie


@dataclass(frozen=True)
class Tooth:
    side: int  # -1 on the left tape, 1 on the right
    y: float
    out: float = 0.0  # how far it stands away from the axis
    angle: float = 0.0
    thick: float = 1.0
    start: float = 0.0  # share of its length, from the head, that is broken off
    tone: float = 1.0


@dataclass(frozen=True)
class Zipper:
    """One intact zipper under one light."""

    pose: Pose
    lamp: Lamp
    teeth: tuple[Tooth, ...]
    grain: np.ndarray  # roughness of the teeth inside `chain_columns`


def manufacture(streams: Streams, size: int) -> Zipper:
    rng, light = streams.pose, streams.light
    x, y = (axis + np.float32(0.5) for axis in canvas_grid(size))
    shift, tilt = rng.normal(0, 0.014), float(rng.normal(0, 0.009))
    axis = 0.5 + shift + tilt * (y - 0.5) + 0.0022 * noise(rng, y.shape, (3, 1), octaves=1)
    pose = Pose(x, y, axis.astype(np.float32), TAPE * float(1 + rng.normal(0, 0.012)))
    teeth = _teeth(rng, streams.surface, tilt)
    lamp = Lamp(float(light.normal(0, 0.20)), float(-0.5 + light.normal(0, 0.25)), float(light.uniform(0.3, 0.75)))
    columns = chain_columns(y.size)
    grain = noise(streams.surface, (y.size, columns.stop - columns.start), (90, 36), octaves=2)
    return Zipper(pose, lamp, teeth, grain)


def _teeth(pose: Generator, surface: Generator, tilt: float) -> tuple[Tooth, ...]:
    """Returns the teeth of both tapes, a few more than the image shows."""
    pitch, first = _PITCH * float(1 + pose.normal(0, 0.008)), float(pose.uniform()) - 1.5
    thick = float(1 + surface.normal(0, 0.03))
    teeth = []
    for number in range(18):
        for side in (-1, 1):
            jitter = [float(value) for value in surface.normal(0, 1, 5)]
            tooth = Tooth(
                side,
                y=(number + first + 0.25 * side) * pitch + 0.0008 * jitter[0],
                out=0.0009 * jitter[1],
                angle=0.022 * jitter[2] - tilt * side,
                thick=thick * (1 + 0.025 * jitter[3]),
                tone=1 + 0.14 * jitter[4],
            )
            teeth.append(tooth)
    return tuple(teeth)


def chain_columns(side: int) -> slice:
    """Returns the columns of the canvas that the chain may touch."""
    return slice(round((0.5 - _CHAIN - 0.05) * side), round((0.5 + _CHAIN + 0.05) * side))


def set_teeth(canvas: np.ndarray, zipper: Zipper, teeth: list[Tooth]) -> None:
    """Sets lit teeth onto the cloth, in place."""
    side, part = zipper.pose.y.size, canvas[:, chain_columns(zipper.pose.y.size)]
    height, tone = relief(zipper, teeth)
    kernel = 2 * round(0.010 * side) + 1
    near = cv2.GaussianBlur(height, (kernel, kernel), 0.006 * side)
    part *= 1 - 0.62 * smoothstep(0.0, 0.014, near)  # little light reaches the cloth between the teeth
    normal = normals(height, side)
    lamp = zipper.lamp
    diffuse, _ = shade(normal, (lamp.x, lamp.y, 1.0), ambient=0.3)
    _, glint = shade(normal, (lamp.x, lamp.y - 0.25, 0.8), gloss=26)
    _, sheen = shade(normal, (lamp.x, lamp.y - 0.6, 0.7), gloss=4)
    buried = 1 - 0.5 * smoothstep(0.0, 0.006, near - height)
    mirrored = lamp.glare * (glint + 0.16 * sheen)
    lit = tone * (0.28 * diffuse * (0.6 + 30 * height) + mirrored) * buried * (1 + 0.10 * zipper.grain)
    part += (lit - part) * smoothstep(0.0, 0.0035, height)


def relief(zipper: Zipper, teeth: list[Tooth]) -> tuple[np.ndarray, np.ndarray]:
    """Returns height and relative brightness of the teeth inside `chain_columns`."""
    columns = chain_columns(zipper.pose.y.size)
    x, y = zipper.pose.x[:, columns], zipper.pose.y
    height = np.zeros((y.size, x.size), np.float32)
    tone = np.ones_like(height)
    for tooth in teeth:
        rows = slice(*np.searchsorted(y[:, 0], [tooth.y - 0.042, tooth.y + 0.042]))
        if rows.stop <= rows.start:
            continue
        middle = zipper.pose.at(tooth.y)
        half = slice(*np.searchsorted(x[0], np.sort([middle - tooth.side * 0.035, middle + tooth.side * _CHAIN])))
        body = _body(x[:, half] - middle, y[rows] - tooth.y, tooth)
        old = height[rows, half]
        tone[rows, half] = np.where(body > old, tooth.tone, tone[rows, half])
        np.maximum(old, body, out=old)
    return height, tone


def _body(x: np.ndarray, y: np.ndarray, tooth: Tooth) -> np.ndarray:
    """Returns the height of one tooth around its place on the axis: a round bar with a thick head."""
    ahead, aside = tooth.side * np.cos(tooth.angle), np.sin(tooth.angle)
    along = ((x - tooth.side * tooth.out) * ahead + y * aside - _HEAD) / (_FOOT - _HEAD)
    across = y * ahead - (x - tooth.side * tooth.out) * aside
    head = np.square(np.clip(1 - np.square((along - 0.15) / 0.24), 0, None))
    width = tooth.thick * (0.0143 + 0.0028 * head + 0.0030 * np.clip(along - 0.6, 0, None))
    end = 1 - np.abs(2 * along - 1) ** 5
    if tooth.start > 0:
        end = np.minimum(end, np.clip((along - tooth.start - 0.05 * np.sin(across * 420 + tooth.y * 900)) * 9, -1, 1))
    round_bar = 1 - np.square(across / width)
    sink = 1 - 0.45 * np.clip(along - 0.45, 0, None)
    return (0.0135 * sink * np.sqrt(np.clip(np.minimum(round_bar, 1) * np.clip(end, 0, 1), 0, None))).astype(np.float32)
