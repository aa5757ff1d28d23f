"""Report: what may be promised of a fitted model, measured on new good images and, where there are any, on defects.

`measure` reads and scores, `report_page` writes one HTML file, `report_lines` the same in short. Every statement about
false alarms is exact for every number of images (`metrics.promise`); what is only an estimate has its interval.
"""

from __future__ import annotations

import base64
import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from mvtec_ad import metrics, plotting
from mvtec_ad.data.copies import content_hash
from mvtec_ad.data.loading import batches, load_readable, read_mask, resize
from mvtec_ad.errors import DataError, SettingsError
from mvtec_ad.inspection.second_opinion import CalibratedDetector
from mvtec_ad.methods.base import TOGETHER, Detector
from mvtec_ad.pages import jpeg, overlay, render

NEW, TEST = "new", "test"  # where an image comes from
DOUBTFUL = 10  # images nearest to the threshold that are shown
AREAS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03)  # of painted defects, shares of what the model sees
CONTRASTS = (0.05, 0.1, 0.2, 0.4)  # shares of the range from black to white
SHAPES = ("disc", "scratch")  # a scratch is ten times as long as wide
SURELY = 0.9  # share of painted defects that must be detected for "detected from this size on"
COUNTS = (19, 50, 99, 209, 500, 1000, 5000)  # good images of the table
FALSE_DISCOVERIES = 0.1  # expected share of wrongly named ones among the images that say no
RING = 0.03  # width of a defect's surroundings, a share of the picture's side


class Doubtful(NamedTuple):
    """An image near the threshold, with its pixels."""

    distance: float  # from the threshold
    row: int  # of the table
    image: np.ndarray
    anomaly_map: np.ndarray | None


# --- what is read and scored ------------------------------------------------------------------------------------------


def measure(
    detector: Detector,
    description: dict[str, Any],
    good: Sequence[Any],
    test: pd.DataFrame | None = None,
    *,
    miss: float = 10.0,
    false_alarm: float = 1.0,
    prevalences: Sequence[float] = (0.01, 0.05, 0.2),
    painted: int = 12,
    progress: bool = False,
) -> dict[str, Any]:
    """Everything the page and the summary say.

    Args:
        detector, description: as `methods.load_model` gives them.
        good: paths of new good images, which the model was not fitted on.
        test: table of test images (`data.index.read_test`), defects and maybe good ones; None: only `good`.
        miss, false_alarm: costs of a defect that passes, and of a good part that is stopped.
        prevalences: shares of defective parts for which costs are expected.
        painted: good images that defects of each shape, area and contrast are painted on; 0 paints none.

    Raises:
        DataError: no new good image can be read, or the model's threshold does not come from its good scores.
        SettingsError: a cost or a share makes no sense.
    """
    threshold, promised = description["threshold"]["value"], description["threshold"]["false_alarm_rate"]
    for name, value in (("miss", miss), ("false alarm", false_alarm)):
        if not (np.isfinite(value) and value > 0):
            raise SettingsError(f"the cost of a {name} must be a positive number, not {value}")
    if not all(0 < share < 1 for share in prevalences):
        raise SettingsError("a share of defective parts must lie between 0 and 1, for example 0.05")
    if not (len(detector.good_scores) and np.isclose(metrics.calibrated(detector.good_scores, promised), threshold)):
        raise DataError("the threshold of this model does not come from its good scores: fit it again to promise")
    known = {"defect": "good", "label": 0, "mask_path": ""}
    table = pd.DataFrame({"image_path": list(map(str, good)), **known, "origin": NEW})
    if test is not None:
        table = pd.concat([table, test[["image_path", *known]].assign(origin=TEST)], ignore_index=True)
    table, doubtful, canvases, problems, notes = _score(detector, threshold, table, painted, progress)
    new = table[table["origin"] == NEW]
    if not len(new):
        raise DataError(f"none of the {len(good)} new good images can be read, first {problems[0]}")
    table = table.join(_sizes(table, detector), how="left")
    detected = _paint(detector, threshold, canvases, painted, progress) if painted and canvases else {}
    count, enough = len(detector.good_scores), len(new) >= metrics.images_needed(promised)
    p = metrics.conformal_p_values(new["score"], detector.good_scores)
    named = metrics.discoveries(p, FALSE_DISCOVERIES)
    return {
        "method": detector.name,
        "category": description["category"],
        "image_size": detector.image_size,
        "crop": detector.crop,
        "threshold": threshold,
        "promised": promised,
        "count": count,
        "rank": metrics.calibrated_rank(count, promised),
        "promise": _promise(count, promised),
        "kept_promise": _realised(new, threshold, count, promised),
        "same": metrics.same_as_before(detector.good_scores, new["score"]),
        "recalibrated": metrics.calibrated(new["score"], promised) if enough else None,
        "unlike": new.assign(p=p)[named].sort_values("score", ascending=False).to_dict("records"),
        "most_named": int(FALSE_DISCOVERIES * (count + 1)),
        "table": table,
        "types": _types(table[table["label"] == 1], threshold),
        "detected": detected,
        "painted": painted,
        "smallest": _smallest(detected),
        "costs": _costs(table, threshold, detected, miss, false_alarm, prevalences),
        "doubtful": sorted(doubtful),
        "map_scale": CalibratedDetector(detector, threshold).map_scale,
        "good_scores": detector.good_scores,
        "problems": problems,
        "notes": notes,
    }


def _score(
    detector: Detector, threshold: float, table: pd.DataFrame, painted: int, progress: bool
) -> tuple[pd.DataFrame, list[Doubtful], list[np.ndarray], list[str], list[str]]:
    """The readable rows, once each, with their scores; the most doubtful; good images that pass, to paint on; what
    could not be read, and how many were copies. No other pixels stay in memory."""
    scores, doubtful, canvases, problems = np.full(len(table), np.nan), [], [], []
    hashes: dict[str, int] = {}
    copies: list[int] = []
    with tqdm(total=len(table), desc=f"{detector.name} score", unit="image", disable=not progress) as bar:
        for part in batches(len(table), TOGETHER):
            images, unreadable = load_readable(list(table["image_path"][part]), detector.image_size, detector.crop)
            problems += map(str, unreadable.values())
            rows = [row for row in range(part.start, part.stop) if row - part.start not in unreadable]
            judged = detector.score_seen(detector.parts(images)) if rows else None
            for position, row in enumerate(rows):
                if hashes.setdefault(content_hash(images[position]), row) != row:
                    copies.append(row)
                    continue
                scores[row] = score = float(judged.image[position])
                anomaly_map = None if judged.maps is None else judged.maps[position]
                doubtful.append(Doubtful(abs(score - threshold), row, images[position], anomaly_map))
                if table["origin"].iloc[row] == NEW and score <= threshold and len(canvases) < painted:
                    canvases.append(images[position].copy())
            nearest = heapq.nsmallest(DOUBTFUL, doubtful, key=lambda each: each[:2])
            doubtful = [  # copies, for a view would keep all images of its batch
                each._replace(
                    image=each.image.copy(), anomaly_map=None if each.anomaly_map is None else each.anomaly_map.copy()
                )
                for each in nearest
            ]
            bar.update(part.stop - part.start)
    words = f"{len(copies)} of {len(table)} images are copies of others and count once"
    notes = [f"{words}, first {table['image_path'].iloc[copies[0]]}"] if copies else []
    return table.assign(score=scores).dropna(subset="score"), doubtful, canvases, problems, notes


# --- what is promised, and what was realised --------------------------------------------------------------------------


def _promise(count: int, promised: float) -> dict[str, Any]:
    """What N good images can and cannot promise."""
    rates = [n for n in sorted({*COUNTS, count}) if n >= metrics.images_needed(promised)]
    return {
        "interval": metrics.true_rate_interval(count, promised),
        "mean": float(metrics.true_rate(count, promised).mean()),
        "below": float(metrics.true_rate(count, promised).cdf(promised)),
        "least": 1 / (count + 1),
        "needed": {each: metrics.images_needed(each) for each in (0.05, 0.02, 0.01, 0.001)},
        "vouch": {each: metrics.images_to_vouch(each) for each in (0.05, 0.02, 0.01, 0.001)},
        "by_count": [(n, *metrics.true_rate_interval(n, promised)) for n in rates],
        "coming": {n: tuple(map(int, metrics.alarms_among(count, promised, n).interval(0.95))) for n in (100, 1000)},
    }


def _realised(new: pd.DataFrame, threshold: float, count: int, promised: float) -> dict[str, Any]:
    """False alarms among the new good images, their rate with its interval, and what was to be expected."""
    alarms = int((new["score"] > threshold).sum())
    expected = metrics.alarms_among(count, promised, len(new))
    low, high = map(int, expected.interval(0.95))
    return {
        "images": len(new),
        "alarms": alarms,
        "share": alarms / len(new),
        "interval": metrics.wilson(alarms / len(new), len(new)),
        "expected": (low, high),
        "verdict": "fewer than" if alarms < low else "more than" if alarms > high else "as many as",
    }


# --- how small a defect may be ----------------------------------------------------------------------------------------


def _sizes(table: pd.DataFrame, detector: Detector) -> pd.DataFrame:
    """Area and contrast of every defect with a mask, shares, by the table's index; 0 where the model sees nothing of
    it, nan where its mask cannot be read.

    Contrast is the largest difference of a colour's mean inside the mask and in a ring around it, of 255.
    """
    sizes = pd.DataFrame(np.nan, index=table.index, columns=["area", "contrast"])
    for row in table[table["mask_path"] != ""].itertuples():
        images, problems = load_readable([row.image_path], detector.image_size, detector.crop)
        try:
            mask = read_mask(row.mask_path, row.image_path).astype(np.float32)
        except DataError:
            continue
        if problems or not (share := resize(mask, detector.image_size, detector.crop)).any():
            sizes.loc[row.Index] = 0.0
            continue
        inside = share >= min(0.5, share.max())
        width = 2 * max(1, round(RING * detector.crop)) + 1
        ring = (cv2.dilate(share, np.ones((width, width), np.uint8)) > 0) & (share == 0)
        means = [images[0][chosen].mean(axis=0) for chosen in (inside, ring if ring.any() else ~inside)]
        sizes.loc[row.Index] = share.mean(), np.abs(means[0] - means[1]).max() / 255
    return sizes


def _types(defects: pd.DataFrame, threshold: float) -> list[dict[str, Any]]:
    """A row per defect type, and one of all: how many, how many detected, the smallest detected and the largest missed
    by area."""
    groups = [*defects.groupby("defect"), ("all", defects)] if len(defects) else []
    rows = []
    for name, rows_of_type in groups:
        detected = rows_of_type["score"] > threshold
        seen = rows_of_type["area"][rows_of_type["area"] > 0]
        rows.append(
            {
                "name": name,
                "images": len(rows_of_type),
                "detected": int(detected.sum()),
                "interval": metrics.wilson(detected.mean(), len(rows_of_type)),
                "smallest": seen[detected].min(),  # nan without masks
                "largest": seen[~detected].max(),
            }
        )
    return rows


def paint_defect(
    image: np.ndarray, area: float, contrast: float, shape: str, centre: tuple[float, float], angle: float = 0.0
) -> np.ndarray:
    """A copy of the image (S, S, 3) uint8 with a disc or a scratch of known area and contrast, edges smooth.

    Args:
        area: share of the picture.
        contrast: change of all colours, a share of 255; downwards where the place is light, else upwards.
        shape: disc, or scratch: ten times as long as wide, with round ends, at this angle in radians.
        centre: column and row, pixels.

    Examples:
        >>> painted = paint_defect(np.full((100, 100, 3), 200, np.uint8), 0.01, 0.2, "disc", (50, 50))
        >>> int(painted.min()), int((painted < 175).any(2).sum())  # 200 − .2 · 255, about 1 % of the pixels
        (149, 97)
    """
    rows, columns = np.indices(image.shape[:2], dtype=np.float32)
    x, y = columns - centre[0], rows - centre[1]
    pixels = area * image.shape[0] * image.shape[1]
    # Both are what lies within `radius` of a line, which for a disc is a point: area = π r² + 2 r · length.
    radius = np.sqrt(pixels / np.pi) if shape == "disc" else np.sqrt(pixels / (np.pi + 36))
    half = 0.0 if shape == "disc" else 9 * radius
    along = np.clip(x * np.cos(angle) + y * np.sin(angle), -half, half)
    distance = np.hypot(x - along * np.cos(angle), y - along * np.sin(angle))
    opacity = np.clip(radius + 0.5 - distance, 0, 1)
    opacity *= min(1.0, pixels / max(float(opacity.sum()), 1e-9)) if radius < 0.5 else 1.0
    bright = np.average(image.mean(axis=2), weights=opacity) > 127 if opacity.any() else True
    changed = image + opacity[..., None] * (255 * contrast * (-1 if bright else 1))
    return changed.round().clip(0, 255).astype(np.uint8)


def _paint(
    detector: Detector, threshold: float, canvases: Sequence[np.ndarray], painted: int, progress: bool
) -> dict[str, np.ndarray]:
    """Shape -> detected of painted defects, (contrasts, areas, painted) bool.

    One place per canvas and shape serves all areas and contrasts: on the part, where it stands out from the colour of
    the picture's frame, else anywhere. All canvases pass unpainted, so it is the paint that is detected.
    """
    rng = np.random.default_rng(0)
    detected = {shape: np.zeros((len(CONTRASTS), len(AREAS), painted), bool) for shape in SHAPES}
    number = painted * len(SHAPES) * len(CONTRASTS)
    with tqdm(total=number * len(AREAS), desc="painted defects", unit="image", disable=not progress) as bar:
        for place in range(painted):
            image = canvases[place % len(canvases)]
            on_part = np.argwhere(_on_part(image))
            for shape in SHAPES:
                row, column = on_part[rng.integers(len(on_part))]
                where = {"centre": (float(column), float(row)), "angle": rng.uniform(0, np.pi)}
                for line, contrast in enumerate(CONTRASTS):
                    images = np.stack([paint_defect(image, area, contrast, shape, **where) for area in AREAS])
                    scores = detector.score_seen(detector.parts(images)).image
                    detected[shape][line, :, place] = scores > threshold
                    bar.update(len(AREAS))
    return detected


def _on_part(image: np.ndarray) -> np.ndarray:
    """(S, S) bool: what differs from the frame's median colour, its rim left out; all but the margins where that is
    next to nothing, as of a texture."""
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    differs = np.abs(image.astype(np.int16) - np.median(frame, axis=0)).max(axis=2) > 24
    width = max(3, image.shape[0] // 32)
    part = cv2.erode(differs.astype(np.uint8), np.ones((width, width), np.uint8), borderValue=0) > 0
    if part.mean() < 0.05:
        part[:] = False
        margin = image.shape[0] // 8
        part[margin : image.shape[0] - margin, margin : image.shape[1] - margin] = True
    return part


def _smallest(detected: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """For each shape and contrast the least area from which on `SURELY` of the painted defects were detected."""
    rows = []
    for shape, table in detected.items():
        for contrast, line in zip(CONTRASTS, table.mean(axis=2) >= SURELY, strict=True):
            first = len(AREAS) - int(np.cumprod(line[::-1]).sum())
            area = AREAS[first] if first < len(AREAS) else None
            rows.append({"shape": shape, "contrast": contrast, "area": area})
    return rows


# --- what a threshold costs -------------------------------------------------------------------------------------------


def _costs(
    table: pd.DataFrame,
    threshold: float,
    detected: dict[str, np.ndarray],
    miss: float,
    false_alarm: float,
    prevalences: Sequence[float],
) -> dict[str, Any] | None:
    """Expected cost per part at every threshold, π · miss · P(missed) + (1 − π) · false alarm · P(alarm); None without
    defective test images."""
    good, bad = (np.sort(table.loc[table["label"] == label, "score"].to_numpy()) for label in (0, 1))
    if not len(bad):
        return None
    thresholds = np.unique(np.concatenate([[min(good[0], bad[0])], good, bad, [threshold]]))
    missed = np.searchsorted(bad, thresholds, side="right") / len(bad)
    alarms = 1 - np.searchsorted(good, thresholds, side="right") / len(good)
    here = int(np.searchsorted(thresholds, threshold))
    curves = {share: share * miss * missed + (1 - share) * false_alarm * alarms for share in prevalences}
    rows = [
        {
            "prevalence": share,
            "now": float(curve[here]),
            "least": float(curve.min()),
            "cheapest": float(thresholds[curve.argmin()]),
            "nothing": share * miss,  # is inspected: all pass
            "everything": (1 - share) * false_alarm,  # is stopped
        }
        for share, curve in curves.items()
    ]
    known = {"miss": miss, "false_alarm": false_alarm, "good": len(good), "defects": len(bad)}
    return {"thresholds": thresholds, "curves": curves, "rows": rows, **known}


# --- what is written --------------------------------------------------------------------------------------------------


def report_page(measured: dict[str, Any]) -> str:
    """The HTML text of what `measure` has found: one file that needs no other, its figures inside."""
    table, threshold = measured["table"], measured["threshold"]
    new, defects = table[table["origin"] == NEW], table[table["label"] == 1]
    sized = defects[(defects["area"] > 0) & (defects["contrast"] > 0)]
    groups = {"good scores of the fit": measured["good_scores"], "new good images": new["score"]}
    figures = {
        "promise": plotting.true_rate_figure(measured["count"], measured["promised"]),
        "same": plotting.score_steps(groups, threshold),
    }
    if len(sized):
        figures["sizes"] = plotting.defect_sizes(sized["area"], sized["contrast"], sized["score"] > threshold)
    if measured["detected"]:
        rates = {shape: hits.mean(axis=2) for shape, hits in measured["detected"].items()}
        figures["painted"] = plotting.detection_grid(rates, AREAS, CONTRASTS)
    if costs := measured["costs"]:
        shown = costs["thresholds"] <= max(2 * abs(threshold), np.quantile(defects["score"], 0.5))
        curves = {share: curve[shown] for share, curve in costs["curves"].items()}
        figures["costs"] = plotting.cost_curves(costs["thresholds"][shown], curves, threshold)
    cards = [_card(each, measured) for each in measured["doubtful"]]
    known = {"title": f"What may be promised: {measured['method']} on {measured['category']}", "cards": cards}
    known |= {"figures": {name: _png(figure) for name, figure in figures.items()}, "surely": SURELY}
    return render("report.html", **known, **_without_pixels(measured))


def _png(figure: Figure) -> str:
    return "data:image/png;base64," + base64.b64encode(plotting.to_png(figure, 150)).decode()


def _card(doubtful: Doubtful, measured: dict[str, Any]) -> dict[str, Any]:
    """Words and pictures of one image."""
    row = measured["table"].loc[doubtful.row]
    verdict = "defect" if row["score"] > measured["threshold"] else "good"
    colours = measured["map_scale"]
    mapped = doubtful.anomaly_map is not None
    return {
        "name": row["image_path"],
        "verdict": verdict,
        "right": (verdict == "defect") == bool(row["label"]),
        "kind": "new, good" if row["origin"] == NEW else f"test, {row['defect']}",
        "score": row["score"],
        "picture": jpeg(doubtful.image),
        "anomaly_map": jpeg(overlay(doubtful.image, doubtful.anomaly_map, colours)) if mapped else "",
    }


def _without_pixels(measured: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measured.items() if name not in ("doubtful", "table", "good_scores")}


def report_lines(measured: dict[str, Any]) -> list[str]:
    """The page in short, for a terminal."""
    text = render("report_summary.txt", surely=SURELY, **_without_pixels(measured))
    return [line.rstrip() for line in text.splitlines() if line.strip()]
