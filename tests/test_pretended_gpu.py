"""The pretended GPU refuses what CUDA refuses, takes what CUDA takes, and computes what the CPU computes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# Each is run in one process with x = [1, 2, 3] on the GPU and y the same on the CPU, and must end as CUDA ends it.
REFUSED = {  # statement -> words of the error
    "x + y": "at least two devices, cuda:0 and cpu",
    "torch.cat([x, y])": "at least two devices",
    "torch.stack([x[0], torch.tensor(1.0)])": "at least two devices",
    "torch.where(x > 1, x, y)": "at least two devices",
    "torch.nn.functional.linear(x, y[None])": "at least two devices",
    "torch.nn.Linear(3, 1)(x)": "at least two devices",
    "torch.nn.Linear(3, 1).cuda()(y)": "at least two devices",
    "x * torch.from_numpy(numpy.ones(3, numpy.float32))": "at least two devices",
    "torch.equal(x, y)": "at least two devices",
    "y.add_(x)": "at least two devices",
    "torch.tensor(1.0).add_(x[0])": "at least two devices",
    "x.index_put_((torch.tensor([0, 1]),), y[:2])": "at least two devices",
    "x[torch.tensor([0, 1])] = y[:2]": "at least two devices",
    "y[torch.tensor([0], device='cuda')]": "indices should be either on cpu or on the same device",
    "x.numpy()": "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()",
    "x.clone().requires_grad_().numpy()": "Can't call numpy() on Tensor that requires grad",
    "numpy.asarray(x)": "can't convert cuda:0 device type tensor to numpy",
    "numpy.array([x, x])": "can't convert cuda:0 device type tensor to numpy",
    "numpy.mean(x)": "",
    "y.numpy() + x": "",
    "x.pin_memory()": "cannot pin",
}
TAKEN = {  # expression -> what it equals, said by lists of Python
    "(x + torch.tensor(1.0)).tolist()": [2, 3, 4],
    "(torch.tensor(1.0) - x).tolist()": [0, -1, -2],
    "(x * numpy.float64(2)).tolist()": [2, 4, 6],
    "x[1].item(), float(x[1]), int(x[1]), f'{x[1]:.2f}'": [2, 2, 2, "2.00"],
    "x[torch.tensor([2, 0])].tolist()": [3, 1],
    "x[numpy.array([2, 0])].tolist()": [3, 1],
    "x[torch.tensor([True, False, True])].tolist()": [1, 3],
    "y.clone().copy_(x).tolist(), x.clone().copy_(y * 2).tolist()": [[1, 2, 3], [2, 4, 6]],
    "[filled(x, slice(1, None), y[:2]).tolist(), filled(x, torch.tensor([0]), torch.tensor(9.0)).tolist()]": [
        [1, 1, 2],
        [9, 2, 3],
    ],
    "x.cpu().numpy().tolist(), x.numpy(force=True).tolist(), x.to('cpu').numpy().tolist()": [[1, 2, 3]] * 3,
    "[value.item() for value in x], len(x), 2 in x": [[1, 2, 3], 3, True],
    "torch.tensor([1, 2], device='cuda').device, torch.zeros(2, device=x.device).device": ["cuda:0", "cuda:0"],
    "x.device, x.cpu().device, x.is_cuda, x.cpu().is_cuda, x.to(y).device": ["cuda:0", "cpu", True, False, "cpu"],
    "torch.as_tensor(x) is x, torch.as_tensor(x, device='cpu').device, y.pin_memory().device": [True, "cpu", "cpu"],
    "repr(x)": "tensor([1., 2., 3.], device='cuda:0')",
    "torch.cuda.is_available(), torch.cuda.get_device_name()": [True, "pretended GPU"],
    "[copy.deepcopy(x).device, type(copy.deepcopy(torch.nn.Linear(1, 1).cuda()).weight).__name__]": [
        "cuda:0",
        "PretendedTensor",
    ],
    # gradients stay where their weights are, across a move too
    "gradient_of(y, lambda weights: (weights.cuda() * x).sum())": [[1, 2, 3], "cpu"],
    "gradient_of(x, lambda weights: (weights.cpu() * y).sum())": [[1, 2, 3], "cuda:0"],
    "gradient_of(x, lambda weights: (weights.half().float() * x).sum())": [[1, 2, 3], "cuda:0"],
    # a file of one device is read on the other
    "torch.load(saved(x), map_location='cpu').device": "cpu",
    "torch.load(saved({'x': [y]}), map_location=x.device)['x'][0].device": "cuda:0",
}
BEGINNING = """
import copy, io, json, sys
import numpy, torch
import pretended_gpu

pretended_gpu.install()

def filled(tensor, at, values):
    tensor = tensor.clone()
    tensor[at] = values
    return tensor

def gradient_of(tensor, loss):
    tensor = tensor.clone().requires_grad_()
    loss(tensor).backward()
    return tensor.grad.tolist(), tensor.grad.device

def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file

def ends(kind, text):
    y = torch.tensor([1.0, 2.0, 3.0])
    x = y.to("cuda")
    names = {**globals(), "x": x, "y": y}
    try:
        return eval(text, names) if kind == "taken" else exec(text, names)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
"""


def child(code: str) -> str:
    """What a process prints that has a pretended GPU."""
    command = [sys.executable, "-c", textwrap.dedent(BEGINNING) + textwrap.dedent(code)]
    ended = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def endings() -> dict[str, object]:
    """Statement -> what it gave, or its error."""
    import json

    statements = [("refused", text) for text in REFUSED] + [("taken", text) for text in TAKEN]
    printed = child(f"print(json.dumps({{text: ends(kind, text) for kind, text in {statements!r}}}, default=str))")
    return json.loads(printed)


@pytest.mark.parametrize(("statement", "words"), REFUSED.items())
def test_what_cuda_refuses(endings: dict[str, object], statement: str, words: str) -> None:
    """In its own words."""
    assert "Error: " in str(endings[statement])
    assert words in str(endings[statement])


@pytest.mark.parametrize(("expression", "result"), TAKEN.items())
def test_what_cuda_takes(endings: dict[str, object], expression: str, result: object) -> None:
    """As documented of CUDA tensors."""
    assert endings[expression] == result


def test_training_gives_the_cpus_numbers() -> None:
    """A small network with batch norm and AdamW, to the bit, and the same before it is installed."""
    training = """
        def train(device):
            torch.manual_seed(0)
            layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten()]
            network = torch.nn.Sequential(*layers, torch.nn.Linear(144, 1))
            network.to(device, memory_format=torch.channels_last)
            optimiser = torch.optim.AdamW(network.parameters(), lr=0.1)
            for step in range(3):
                images = torch.from_numpy(numpy.random.default_rng(step).normal(size=(2, 3, 8, 8))).float().to(device)
                loss = network(images).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            optimiser.load_state_dict(optimiser.state_dict())
            return [value.cpu().numpy().tobytes() for value in network.state_dict().values()]
        on_gpu, on_cpu = train("cuda"), train("cpu")
        print(on_gpu == on_cpu, len(on_gpu))
    """
    assert child(training).split() == ["True", "9"]


def test_half_precision_runs_through_the_scaler() -> None:
    """Half precision inside, single outside; a gradient that overflows halves the scale and moves no weight."""
    printed = child("""
        torch.manual_seed(0)
        network = torch.nn.Linear(4, 1).cuda()
        optimiser, scaler = torch.optim.AdamW(network.parameters(), lr=0.1), torch.amp.GradScaler("cuda")
        for factor in (0.1, 1e6):
            before = network.weight.tolist()
            with torch.autocast("cuda", torch.float16):
                output = network(torch.ones(2, 4, device="cuda"))
            optimiser.zero_grad()
            scaler.scale((output.float() * factor).sum()).backward()
            scaler.step(optimiser)
            scaler.update()
            print(output.dtype, network.weight.dtype, network.weight.tolist() != before, scaler.get_scale())
    """)
    assert printed.splitlines() == [
        "torch.float16 torch.float32 True 65536.0",
        "torch.float16 torch.float32 False 32768.0",
    ]


def test_nothing_is_changed_before_it_is_installed() -> None:
    """Importing it is harmless: other tests may."""
    code = "import torch; before = torch.Tensor.to, torch.tensor, torch.autocast; import pretended_gpu; "
    code += "print(before == (torch.Tensor.to, torch.tensor, torch.autocast))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert printed.stdout == "True\n"
