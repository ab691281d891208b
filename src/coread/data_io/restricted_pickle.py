"""Pickles read as data: NumPy arrays and scalars, numbers, texts and builtin containers; nothing else is called.

Python's own loader calls whatever a pickle names. This one knows a handful of names, all of which lead to functions of
this module, and refuses any other by name. Large arrays are read-only views of the mapped file: a movie of a gigabyte
costs memory only where it is looked at, and `PickleFile.release` gives that back.
"""

import math
import mmap
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

MAPPED_BYTES = 2**16  # strings of bytes at least this long stay in the file; also the size at which pickle ends a frame
KINDS = "biufcSUO"  # of dtypes: numbers, texts, and arrays of objects whose elements obey the same rules


class PickleError(ValueError):
    """A pickle is damaged or asks for more than data; the message names the file and what was refused."""


class _RefusedError(Exception):
    """What a pickle asked for and does not get."""


class PickleFile:
    """The `content` of a pickle; its large arrays are read-only views of the file. Raises PickleError."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.content: Any = _resolved(_Unpickler(_MappedFile(self._map)).load(), set())
        except FileNotFoundError:
            raise PickleError(f"{path}: there is no such file") from None
        except _RefusedError as error:
            raise PickleError(
                f"{path.name}: refused, because it asks for {error}; only arrays, numbers, texts and builtin "
                "containers are read"
            ) from None
        except (pickle.UnpicklingError, struct.error, EOFError, LookupError, ValueError, TypeError) as error:
            raise PickleError(f"{path.name}: not a readable pickle, truncated or damaged ({error})") from error
        except (AttributeError, AssertionError, OverflowError, RecursionError) as error:
            raise PickleError(f"{path.name}: not a readable pickle, damaged ({error})") from error

    def release(self) -> None:
        """Give back the memory of what was looked at; the arrays stay valid and are read again from the file."""
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)


def load_pickle(path: Path) -> Any:
    """Return the content of a pickle; large arrays are read-only views of the file. Raises PickleError."""
    return PickleFile(path).content


class _MappedFile:
    """A file whose long reads are views."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._view = memoryview(mapping)
        self._map, self._position = mapping, 0

    def read(self, size: int) -> bytes | memoryview:
        data = self._view[self._position : self._position + size]
        if len(data) < size:
            raise EOFError("the file ends too early")
        self._position += size
        return data if size >= MAPPED_BYTES else bytes(data)

    def readline(self) -> bytes:
        self._map.seek(self._position)
        line = self._map.readline()
        self._position += len(line)
        return line


# ------------------------------------------------------------------------------------------------- what may be built


class _DtypeState:
    """A dtype as a pickle builds it: a code, then the order of its bytes."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not isinstance(code, str) or np.dtype(code).kind not in KINDS:
            raise _RefusedError(f"the dtype {code!r}")
        self.dtype = np.dtype(code)

    def fill(self, state: Sequence[Any]) -> None:
        if state[3] is not None:
            raise _RefusedError(f"a dtype with the fields {state[3]!r}")
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in ("<", ">") else self.dtype


class _ArrayState:
    """An array as a pickle builds it: first nothing, then shape, dtype, order and bytes."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, *_: Any) -> None:
        self.array: np.ndarray | None = None

    def fill(self, state: Sequence[Any]) -> None:
        _, shape, dtype, fortran, values = state
        if dtype.dtype.kind == "O":
            self.array = np.empty(math.prod(shape), object)
            for index, value in enumerate(values):  # assigning the list would turn elements of equal length into axes
                self.array[index] = value
            self.array = self.array.reshape(shape, order="F" if fortran else "C")
        else:
            self.array = _view(values, dtype, shape, "F" if fortran else "C")


def _view(values: Any, dtype: _DtypeState, shape: Sequence[int], order: Any) -> np.ndarray:
    if math.prod(shape) == 0:
        return np.empty(shape, dtype.dtype)
    return np.frombuffer(values, dtype.dtype).reshape(shape, order=order)


def _array_of_buffer(
    values: Any, dtype: _DtypeState, shape: Sequence[int], order: str, axis_order: Sequence[int] | None = None
) -> np.ndarray:
    """Build an array as protocol 5 writes it; `axis_order` belongs to the order K of newer versions of NumPy."""
    if order == "K" and axis_order is not None:
        return _view(values, dtype, shape, "C").transpose(axis_order)
    return _view(values, dtype, shape, order)


def _scalar(dtype: _DtypeState, value: Any) -> Any:
    return np.frombuffer(value, dtype.dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    """Return the bytes that protocols before 3 write as text."""
    return text.encode("latin-1" if encoding == "latin1" else "ascii")


ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _ArrayState,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_of_buffer,
    ("numpy", "ndarray"): _ArrayState,
    ("numpy", "dtype"): _DtypeState,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    **{("builtins", kind.__name__): kind for kind in (set, frozenset, complex, bytes, bytearray)},
}


class _Unpickler(pickle._Unpickler):
    """The library's own loader in Python, whose steps can be replaced, with names from ALLOWED only."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]

    def __init__(self, file: _MappedFile) -> None:
        super().__init__(file)  # type: ignore[arg-type]

    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed numpy.core, and protocols before 3 use the names of Python 2
        known_as = module.replace("numpy._core", "numpy.core", 1).replace("__builtin__", "builtins", 1)
        allowed = ALLOWED.get((known_as, name))
        if allowed is None:
            raise _RefusedError(f"{module}.{name}")
        return allowed

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError(f"an object outside of the file ({pid!r})")

    def get_extension(self, code: int) -> None:
        raise _RefusedError(f"the registered extension {code}")

    def load_build(self) -> None:
        """Fill in an array or dtype; the library's own step would set attributes of anything."""
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _ArrayState | _DtypeState):
            raise _RefusedError(f"attributes of {type(target).__name__}")
        target.fill(state)

    def load_bytearray8(self) -> None:
        """Leave the bytes of an array in the file; the library's own step copies them."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def _resolved(value: Any, seen: set[int]) -> Any:
    """Return what a pickle holds with its arrays in their places; containers that may change are filled in place."""
    if isinstance(value, _ArrayState):
        if value.array is None:
            raise _RefusedError("an array without values")
        return _resolved(value.array, seen)
    if isinstance(value, _DtypeState):
        return value.dtype
    if isinstance(value, memoryview):
        return bytes(value)
    if isinstance(value, tuple | frozenset):
        return type(value)(_resolved(item, seen) for item in value)
    if id(value) in seen:
        return value
    if isinstance(value, dict | list):
        seen.add(id(value))
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            value[key] = _resolved(item, seen)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "O":
        seen.add(id(value))
        for index, item in np.ndenumerate(value):
            value[index] = _resolved(item, seen)
    return value
