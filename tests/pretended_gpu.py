"""A GPU without a GPU: tensors that say `cuda:0`, are computed on the CPU, and refuse what CUDA refuses.

    import pretended_gpu
    pretended_gpu.install()                       # before any module takes a function of torch by name
    x = torch.ones(3, device="cuda")
    x + torch.ones(3)                             # RuntimeError: found at least two devices, cuda:0 and cpu!
    x.numpy()                                     # TypeError: use Tensor.cpu()

A `PretendedTensor` wraps a tensor of the CPU; every operation on it comes through `_dispatch`, which looks at the
devices of all operands, computes on what is wrapped, and wraps the result. So numbers are the CPU's to the bit.

It changes torch for the whole process and cannot be undone: only child processes install it.

What it cannot show: operations that CUDA has no kernel for, or that round otherwise there; the memory of a GPU, its
streams and its speed; several GPUs; device arguments in threads, for torch's modes hold in one thread. Under
`inference_mode` only gradients are off. Mixed precision is the CPU's `autocast`, whose list of operations in half
precision is shorter than CUDA's; the scaler of the loss is torch's own. A moved `nn.Module` has new parameters, where
CUDA refills the old ones: an optimiser made before the move would train nothing. A checkpoint of a GPU reads as one of
a CPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
NO_NUMPY = "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
# An operation on a tensor of the GPU that takes these from the CPU as well.
INDEXING = {"aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
LISTS = {"aten::cat", "aten::stack"}  # these take not even a number from the other device

_to, _load, _tensor, _as_tensor = Tensor.to, torch.load, torch.tensor, torch.as_tensor


class PretendedTensor(Tensor):
    """A tensor of the pretended GPU; `wrapped` holds its numbers, on the CPU."""

    wrapped: Tensor

    @staticmethod
    def __new__(cls, wrapped: Tensor) -> PretendedTensor:
        layout = {"strides": wrapped.stride(), "storage_offset": wrapped.storage_offset(), "dtype": wrapped.dtype}
        tensor = Tensor._make_wrapper_subclass(cls, wrapped.size(), **layout, device=CPU)
        tensor.wrapped = wrapped.detach()
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _dispatch(operation, args, kwargs or {})

    def numpy(self, *, force: bool = False) -> np.ndarray:
        """Only by force."""
        if force:
            return self.wrapped.numpy(force=True)
        if self.requires_grad:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        raise TypeError(NO_NUMPY)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError(NO_NUMPY)

    def tolist(self) -> Any:
        """Copied to the CPU, as CUDA does."""
        return self.wrapped.tolist()

    def pin_memory(self, *_: Any) -> Tensor:
        """Never."""
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def get_device(self) -> int:
        """The number of the GPU."""
        return 0

    def data_ptr(self) -> int:
        """Of the numbers."""
        return self.wrapped.data_ptr()

    def __format__(self, form: str) -> str:
        return format(self.wrapped, form) if self.dim() == 0 else repr(self)

    def __repr__(self, **_: Any) -> str:
        return repr(self.wrapped).removesuffix(")") + ", device='cuda:0')"

    def __deepcopy__(self, memo: dict) -> Tensor:
        copied = PretendedTensor(self.wrapped.clone())
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.wrapped.__reduce_ex__(protocol)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """A value, or each of a list or tuple of values, changed."""
    return type(value)(map(change, value)) if type(value) in (list, tuple) else change(value)


def _unwrap(value: Any) -> Any:
    return value.wrapped if isinstance(value, PretendedTensor) else value


def _dispatch(operation: Any, args: tuple, kwargs: dict) -> Any:
    """Check the devices of all operands, compute on the CPU, and say where the result is."""
    tensors = []
    for value in (*args, *kwargs.values()):  # half a million calls a run: in line
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors += [inner for inner in value if isinstance(inner, Tensor)]
    device = kwargs.get("device")
    pretended = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
    if not pretended and device is None:
        return operation(*args, **kwargs)
    name = operation._schema.name
    if device is not None:
        kwargs = {**kwargs, "device": CPU}
    if pretended and len(pretended) < len(tensors) and name != "aten::copy_":
        _refuse_mixture(operation, name, args, tensors)
    result = operation(
        *(_mapped(_unwrap, value) for value in args), **{k: _mapped(_unwrap, v) for k, v in kwargs.items()}
    )
    if name == "aten::copy_":
        return args[0]
    if not pretended and (device is None or torch.device(device).type != "cuda"):
        return result
    given = {id(_unwrap(tensor)): tensor for tensor in tensors}  # in place, or out: what was given is what comes back

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return given[id(value)] if id(value) in given else PretendedTensor(value)

    return _mapped(wrap, result)


def _refuse_mixture(operation: Any, name: str, args: tuple, tensors: list[Tensor]) -> None:
    """What CUDA refuses, in its own words: operands of both devices, but for a number, or an index, of the CPU."""
    of_cpu = [tensor for tensor in tensors if not isinstance(tensor, PretendedTensor)]
    if name in INDEXING:
        if not isinstance(args[0], PretendedTensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        of_cpu = [value for value in args[2:3] if any(value is tensor for tensor in of_cpu)]  # what is put in
    written = [value for value, of in zip(args, operation._schema.arguments, strict=False) if of.is_write]
    if any(tensor.dim() for tensor in of_cpu) or any(
        tensor is value for tensor in of_cpu for value in (tensors if name in LISTS else written)
    ):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"(in {operation})"
        )


class _Mode(TorchDispatchMode):
    """Sends every operation through `_dispatch`, also one that has no tensor yet but a device, as `torch.zeros`."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _dispatch(operation, args, kwargs or {})


class _Move(torch.autograd.Function):
    """A copy on the other device, whose gradient goes back."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, device: torch.device) -> Tensor:
        return _moved(tensor, device)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _moved(gradient, CPU if isinstance(gradient, PretendedTensor) else CUDA), None


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the other device, without a gradient."""
    numbers = _unwrap(tensor).detach().clone()
    return PretendedTensor(numbers) if device.type == "cuda" else numbers


def _convert(self: Tensor, *args: Any, copy: bool = False, other: Tensor | None = None, **kwargs: Any) -> Tensor:
    """`Tensor.to`."""
    if args and isinstance(args[0], Tensor):
        other, args = args[0], args[1:]
    if other is not None:
        args = (other.device, other.dtype, *args)
    device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    changes = {"dtype": dtype, "memory_format": memory_format, "copy": copy or None}
    changes = {name: value for name, value in changes.items() if value is not None}
    tensor = _to(self, **changes) if changes else self
    here = CUDA if isinstance(tensor, PretendedTensor) else CPU
    return tensor if device is None or device.type == here.type else _Move.apply(tensor, device)


def _maker(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` or `torch.as_tensor`, which make a tensor on the CPU and move it where no mode sees it."""

    def make(data: Any, *args: Any, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> Tensor:
        if isinstance(data, PretendedTensor):
            made = data if original is _as_tensor else data.detach().clone()
            made = _convert(made, *args, device=device, **kwargs)
        else:
            made = original(data, *args, **kwargs)
            made = made if device is None else _convert(made, device)
        return made.requires_grad_() if requires_grad else made

    return make


def _read(file: Any, map_location: Any = None, **kwargs: Any) -> Any:
    """`torch.load`: a checkpoint is read on the CPU, and moved."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return _convert(value, map_location)
        if isinstance(value, dict):
            return type(value)((key, move(inner)) for key, inner in value.items())
        return type(value)(map(move, value)) if isinstance(value, list | tuple) else value

    content = _load(file, map_location="cpu", **kwargs)
    return content if map_location is None else move(content)


class _Autocast(torch.autocast):
    """`torch.autocast`: that of the CPU in the place of CUDA's."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if device_type == "cuda" else device_type, *args, **kwargs)


def install(bfloat16: bool = False) -> None:
    """Give this process a pretended GPU; `bfloat16` says whether it computes with that, as all do but old ones."""
    Tensor.to, Tensor.cpu = _convert, lambda self, *_, **__: _convert(self, CPU)
    Tensor.cuda = lambda self, *_, **__: _convert(self, CUDA)
    Tensor.pin_memory = lambda self, *_: self.clone()
    torch.tensor, torch.as_tensor, torch.load = _maker(_tensor), _maker(_as_tensor), _read
    torch.inference_mode.__enter__ = torch.no_grad.__enter__  # its tensors cannot be wrapped
    torch.inference_mode.__exit__ = torch.no_grad.__exit__
    torch.autocast = torch.amp.autocast = _Autocast
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    answers = {
        "is_available": True,
        "is_bf16_supported": bfloat16,
        "get_device_name": "pretended GPU",
        "_lazy_init": None,
    }
    answers |= {"current_device": 0, "synchronize": None, "empty_cache": None}
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):  # asks the driver
        if hasattr(torch.optim.Optimizer, name):
            setattr(torch.optim.Optimizer, name, lambda _: None)
    importlib.import_module("torch._dynamo")  # else a mode does, and it loads triton: not after TensorFlow
    _Mode().__enter__()
