"""Reading of published checkpoints as data: a pickle that asks for anything but data is refused, by name.

A pickle is a program whose only way to code is to ask for it by module and name. Here a request gets one of three
answers: a rebuilt tensor, array or container; an inert record that keeps what the file says of an object and runs
nothing (OmegaConf nodes, published modules); or `UnsafeCheckpointError`.
"""

import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._utils

INERT_PACKAGES = ("openretina.", "torch.nn.modules.", "omegaconf.")
INERT_MODULES = ("torch.nn.functional", "torch._C._nn", "typing")
TYPE_NAMES = ("int", "float", "complex", "bool", "str", "bytes", "list", "tuple", "object")
SETS: dict[str, Callable[..., Any]] = {"set": set, "frozenset": frozenset}
ARRAY_KINDS = "biufcSUO"  # of dtypes: numbers, texts, and objects whose parts obey the same rules
DTYPES = {str(dtype).removeprefix("torch.") for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


class CheckpointError(ValueError):
    """A file is no model that this version reads; the message names the file and what was found."""


class UnsafeCheckpointError(CheckpointError):
    """A checkpoint asks for something that is not data; the message names it."""


class _Sealed(type):
    """Type of classes that a pickle can make instances of but cannot alter."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise TypeError(f"a checkpoint may not set {cls.__name__}.{name}")


class InertRecord(metaclass=_Sealed):
    """What a checkpoint says of an object: the name of its class, constructor arguments and state; runs no code."""

    published_name = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> "InertRecord":
        """Keep the arguments."""
        record = super().__new__(cls)
        record.__dict__.update(arguments=args, state={})
        return record

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: dict[str, Any]

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.__dict__["state"] = state if isinstance(state, dict) else {"state": state}

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError(f"a checkpoint may not set {name}")

    def __repr__(self) -> str:
        return f"<{self.published_name}>"


class PlainDict(dict, metaclass=_Sealed):
    """A dictionary in place of the dictionary classes of other packages, without their behaviour."""

    def __new__(cls, *args: Any) -> "PlainDict":
        """Ignore constructor arguments such as a default factory; items arrive afterwards."""
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None:
        super().__init__(*(argument for argument in args if isinstance(argument, list | dict)))

    def __setstate__(self, state: Any) -> None:
        """Ignore the state beside the items."""


class _Function:
    """A callable that a pickle may call but, unlike a Python function, cannot alter."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError("a checkpoint may not alter a function")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Bytes are stored as text in pickles of protocol 2; no other codec is data."""
    if encoding != "latin1":
        raise UnsafeCheckpointError(f"asks for _codecs.encode with the codec {encoding!r}, which is refused")
    return str(text).encode("latin1")


class _Dtype(metaclass=_Sealed):
    """A dtype as a pickle builds it: a code, then the order of its bytes."""

    dtype: np.dtype

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or np.dtype(code).kind not in ARRAY_KINDS:
            raise UnsafeCheckpointError(f"asks for the dtype {code!r}, which is refused")
        self.__dict__["dtype"] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take the order of bytes; NumPy's own step would let a file describe memory that it does not have."""
        _, order, subdtype, names, fields, *_ = state
        if (subdtype, names, fields) != (None, None, None):
            raise UnsafeCheckpointError(f"asks for a dtype with the fields {names or subdtype!r}, which is refused")
        if order in ("<", ">"):
            self.__dict__["dtype"] = self.dtype.newbyteorder(order)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError(f"a checkpoint may not set {name}")


class LoadedArray(np.ndarray):
    """An array as a pickle builds it: first nothing, then shape, dtype, order and values."""

    def __setstate__(self, state: Any) -> None:
        """Fill in the values of an array of numbers, texts, or objects that obey the rules of this module."""
        version, shape, dtype, fortran, values = state
        if not isinstance(dtype, _Dtype):
            raise UnsafeCheckpointError(f"asks for an array of {dtype!r}, which is refused")
        super().__setstate__((version, shape, dtype.dtype, fortran, values))


def _empty_array(subtype: Any, *_: Any) -> np.ndarray:
    if subtype is not _ARRAY_TYPE:
        raise UnsafeCheckpointError(f"asks for an array of class {subtype!r}, which is refused")
    return LoadedArray((0,), np.uint8)


def _scalar(dtype: Any, content: bytes) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.dtype.hasobject:
        raise UnsafeCheckpointError("asks for a numpy scalar of Python objects, which is refused")
    return np.frombuffer(content, dtype.dtype, count=1)[0]


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, OrderedDict())


def _parameter(data: torch.Tensor, *_: Any) -> torch.Tensor:
    return data


def _path(*parts: str) -> str:
    return "/".join(str(part) for part in parts)


_ARRAY_TYPE = _Sealed("ndarray", (InertRecord,), {"published_name": "numpy.ndarray"})  # named, never called for memory
_RECONSTRUCT = _Function(_empty_array)
_SCALAR = _Function(_scalar)
ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": PlainDict,
    "builtins.dict": PlainDict,
    "lightning.fabric.utilities.data.AttributeDict": PlainDict,
    "lightning_fabric.utilities.data.AttributeDict": PlainDict,
    "lightning.pytorch.utilities.parsing.AttributeDict": PlainDict,
    "pytorch_lightning.utilities.parsing.AttributeDict": PlainDict,
    "_codecs.encode": _Function(_encode),
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(_parameter),
    "torch._utils._rebuild_parameter_with_state": _Function(_parameter),
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _ARRAY_TYPE,
    "numpy.core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _RECONSTRUCT,
    "numpy.core.multiarray.scalar": _SCALAR,
    "numpy._core.multiarray.scalar": _SCALAR,
    "pathlib.PosixPath": _Function(_path),
    "pathlib.PurePosixPath": _Function(_path),
    "pathlib.WindowsPath": _Function(_path),
    **{f"torch.{name}": getattr(torch, name) for name in DTYPES},
    **{f"builtins.{name}": _Function(function) for name, function in SETS.items()},
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that answers only requests for data."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a global name; raises UnsafeCheckpointError for names that are no data."""
        module = {"__builtin__": "builtins"}.get(module, module)  # its name in pickles of protocol 2
        wanted = f"{module}.{'int' if (module, name) == ('builtins', 'long') else name}"
        if wanted in ALLOWED:
            return ALLOWED[wanted]
        if wanted.startswith(INERT_PACKAGES) or module in INERT_MODULES or wanted in TYPES:
            return _inert(wanted)
        raise UnsafeCheckpointError(f"asks for {module}.{name}, which is refused: it is no data")


TYPES = {f"builtins.{name}" for name in TYPE_NAMES}  # named as types of config entries, never made


def _inert(name: str) -> type[InertRecord]:
    return _Sealed(name, (InertRecord,), {"published_name": name})  # type: ignore[return-value]


_PICKLE = types.SimpleNamespace(
    __name__="coread restricted pickle", Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file).load()
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a torch checkpoint as data in main memory.

    Raises UnsafeCheckpointError naming what a crafted file asks for, CheckpointError for other unreadable files.
    """
    _check_archive(path)
    try:
        # the unpickler above is the restriction; torch's own does not read OmegaConf nodes
        content = torch.load(path, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"{path}: the checkpoint {error}") from None
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable checkpoint ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, expected the dictionary of a checkpoint")
    return content


def _check_archive(path: Path) -> None:
    """Refuse other formats than torch's zip archives: the older ones are read by other code, TorchScript runs code."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/")[-1] for name in archive.namelist()]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a torch checkpoint, truncated or foreign ({error})") from error
    if names.count("data.pkl") != 1 or "constants.pkl" in names:
        raise CheckpointError(f"{path}: a zip archive, but not of one torch checkpoint")
