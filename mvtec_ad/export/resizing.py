"""Resizing inside a graph: what `data.loading.resample` does, to the last bit.

As there: OpenCV's INTER_AREA along axes that shrink, then INTER_LINEAR along those that grow, each rounded to uint8.
Sums of float32 depend on their order in the last digit, and that decides where a value lies half way between two whole
numbers: so areas are added in OpenCV's order, columns first, one source pixel after the other (`ResizeArea_Invoker`,
`ResizeAreaFast_Invoker`); `HResizeLinear` and `VResizeLinear` weigh by whole numbers of 11 bits.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxscript import opset18 as op
from onnxscript import script
from onnxscript.values import Opset

OPSET, IR_VERSION = 18, 10
FLOAT, UINT8, INT32, INT64, DOUBLE = 1, 2, 6, 7, 11  # of onnx.TensorProto
DOMAIN = Opset("mvtec_ad", 1)


@script(DOMAIN)
def overlaps(source, target):
    """For each of T target pixels: the source pixels that it covers (K, T), their weights, and the scale in float64."""
    scale = op.Reciprocal(op.Cast(target, to=DOUBLE) / op.Cast(source, to=DOUBLE))
    whole = op.Cast(source, to=DOUBLE)
    first = op.Cast(op.Range(op.CastLike(0, target), target, op.CastLike(1, target)), to=DOUBLE) * scale
    end = first + scale
    cell = op.Min(scale, whole - first)
    stop = op.Min(op.Floor(end), whole - 1.0)
    start = op.Min(op.Ceil(first), stop)
    head = op.Where(start - first > 0.001, (start - first) / cell, 0.0)
    tail = op.Where(end - stop > 0.001, op.Min(end - stop, op.CastLike(1.0, end), cell) / cell, 0.0)
    steps = op.Cast(op.ReduceMax(stop - start, keepdims=0), to=INT64) + 2
    steps_before = op.Cast(op.Range(op.CastLike(0, steps), steps, op.CastLike(1, steps)), to=DOUBLE) - 1.0
    pixels = start + op.Unsqueeze(steps_before, 1)
    inside = op.Where(pixels < stop, op.Reciprocal(cell), op.Where(pixels == stop, tail, 0.0))
    weights = op.Cast(op.Where(pixels < start, head, inside), to=FLOAT)
    return op.Cast(op.Clip(pixels, op.CastLike(0.0, pixels), whole - 1.0), to=INT64), weights, scale


@script(DOMAIN)
def between(source, target):
    """For each target pixel: the source pixel before its centre, int64, and the share of the next one, float32."""
    scale = op.Reciprocal(op.Cast(target, to=DOUBLE) / op.Cast(source, to=DOUBLE))
    centres = op.Cast(op.Range(op.CastLike(0, target), target, op.CastLike(1, target)), to=DOUBLE) + 0.5
    positions = op.Cast(centres * scale - 0.5, to=FLOAT)
    before = op.Floor(positions)
    return op.Cast(before, to=INT64), positions - before


@script(DOMAIN)
def fixed_point(share):
    """Weights of the two neighbours, as OpenCV rounds them: of 2048, int32."""
    weights = op.Round((1.0 - share) * 2048.0)
    return op.Cast(weights, to=INT32), op.Cast(op.Round(share * 2048.0), to=INT32)


@script(DOMAIN)
def enlarged(image, rows, columns, target):
    """A uint8 picture of so many rows and columns, interpolated linearly to a square."""
    values = op.Cast(image, to=INT32)
    before, share = between(columns, target)
    last = columns - 1
    share = op.Where(op.Or(before < 0, before >= last), 0.0, share)
    first_weight, second_weight = fixed_point(share)
    first = op.Gather(values, op.Max(before, op.CastLike(0, before)), axis=1) * op.Unsqueeze(first_weight, [1])
    second = op.Gather(values, op.Clip(before + 1, op.CastLike(0, before), last), axis=1)
    wide = (first + second * op.Unsqueeze(second_weight, [1])) / 16
    above, share = between(rows, target)
    last = rows - 1
    first_weight, second_weight = fixed_point(share)
    upper = op.Gather(wide, op.Clip(above, op.CastLike(0, above), last), axis=0) * op.Unsqueeze(first_weight, [1, 2])
    lower = op.Gather(wide, op.Clip(above + 1, op.CastLike(0, above), last), axis=0)
    return op.Cast((upper / 65536 + lower * op.Unsqueeze(second_weight, [1, 2]) / 65536 + 2) / 4, to=UINT8)


@script(DOMAIN)
def resample(image, target):
    """A uint8 picture (H, W, 3) as a square of `target` pixels a side."""
    rows = op.Gather(op.Shape(image), 0)
    columns = op.Gather(op.Shape(image), 1)
    height = op.Min(rows, target)
    width = op.Min(columns, target)
    left, across, scale_x = overlaps(columns, width)
    top, down, scale_y = overlaps(rows, height)
    whole = op.And(scale_x == op.Round(scale_x), scale_y == op.Round(scale_y))  # then OpenCV adds whole numbers
    across = op.Expand(op.Unsqueeze(op.Where(whole, op.Sign(across), across), [2]), [1, 1, 3])
    down = op.Unsqueeze(op.Where(whole, op.Sign(down), down), [2, 3])
    strips = op.Cast(op.Gather(image, op.Gather(left, 0), axis=1), to=FLOAT) * op.Gather(across, 0)
    for step in range(op.Gather(op.Shape(left), 0) - 1):
        covered = op.Cast(op.Gather(image, op.Gather(left, step + 1), axis=1), to=FLOAT)
        strips = strips + covered * op.Gather(across, step + 1)
    total = op.Gather(strips, op.Gather(top, 0), axis=0) * op.Gather(down, 0)
    for step in range(op.Gather(op.Shape(top), 0) - 1):
        total = total + op.Gather(strips, op.Gather(top, step + 1), axis=0) * op.Gather(down, step + 1)
    area = op.Where(whole, scale_x * scale_y, op.CastLike(1.0, scale_x))
    total = total * op.Cast(op.Reciprocal(area), to=FLOAT)
    halves_up = op.And(whole, op.And(scale_x == 2.0, scale_y == 2.0))  # elsewhere to the even number
    small = op.Cast(op.Where(halves_up, op.Floor(total + 0.5), op.Round(total)), to=UINT8)
    if op.Min(height, width) < target:  # noqa: SIM108, an `If` of the graph
        square = enlarged(small, height, width, target)
    else:
        square = op.Identity(small)
    return square


def resized(size: int) -> onnx.ModelProto:
    """The graph of `data.loading.resample`: `image` (H, W, 3) uint8 of any size -> `square` (size, size, 3) uint8."""
    image = helper.make_tensor_value_info("image", UINT8, ["height", "width", 3])
    square = helper.make_tensor_value_info("square", UINT8, [size, size, 3])
    target = numpy_helper.from_array(np.array(size, np.int64), "target")
    node = helper.make_node("resample", ["image", "target"], ["square"], domain=DOMAIN.domain)
    graph = helper.make_graph([node], "resized", [image], [square], [target])
    functions = [part.to_function_proto() for part in (overlaps, between, fixed_point, enlarged, resample)]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN.domain, DOMAIN.version)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=IR_VERSION)
