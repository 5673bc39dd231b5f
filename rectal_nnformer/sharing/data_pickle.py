"""Reading pickles as data: built-in values and numpy arrays, without the pickle machinery, so that nothing can run.

A pickle is a program that names functions to be called. Here its instructions are read by `pickletools` and followed by
a few lines of our own, which know the functions that numpy's arrays, dtypes and scalars name and do themselves what
those would do; they import, look up and call nothing. Every other name or instruction is refused.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rectal_nnformer.errors import RectalError

MAX_BYTES = 256 << 20
MAX_INSTRUCTIONS = 500_000
MAX_VALUES = 100_000
MAX_DEPTH = 32

_ARRAY, _NDARRAY, _DTYPE, _SCALAR, _BUFFER = "array", "ndarray", "dtype", "scalar", "buffer"
_NAMES = {
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _DTYPE,
    **{f"numpy.{core}.multiarray _reconstruct": _ARRAY for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": _SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": _BUFFER for core in ("core", "_core")},
}
"""What pickles of numpy 1 and 2 name, and what it stands for here."""

_STORES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_FETCHES = ("GET", "BINGET", "LONG_BINGET")
_PLAIN_DTYPE = re.compile(r"[biuf][1248]")
_MARK = object()


class UnsafePickle(ValueError):
    """The pickle holds something else than data, or is damaged."""


@dataclass(frozen=True)
class _Name:
    what: str


@dataclass
class _Dtype:
    code: str
    order: str = "|"

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order.replace("|", "=") + self.code)


@dataclass
class _Array:
    value: np.ndarray[Any, Any] | None = None


@dataclass
class _Machine:
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is _MARK:
                items = self.stack[position + 1 :]
                del self.stack[position:]
                return items
        raise UnsafePickle("it is damaged")


def load_data_pickle(path: Path) -> Any:
    """Return what a pickle holds: None, bool, int, float, str, bytes, list, tuple, dict, numpy arrays and numbers.

    Args:
        path: A file of at most `MAX_BYTES`.

    Raises:
        RectalError: The file is no pickle, damaged, or holds or does anything else; nothing of it has been executed.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise RectalError(f"{path} has {size} bytes, more than the {MAX_BYTES} that are read of a pickle.")
    try:
        return parse(path.read_bytes())
    except UnsafePickle as error:
        raise RectalError(
            f"{path} was not opened: {error}. Do not open it with other programs; ask its sender."
        ) from None


def parse(data: bytes) -> Any:
    """Return what the bytes of a pickle hold.

    Raises:
        UnsafePickle: See `load_data_pickle`.
    """
    machine = _Machine()
    stream = io.BytesIO(data)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_INSTRUCTIONS:
                raise UnsafePickle("it has more instructions than case properties need")
            if instruction.name == "STOP":
                break
            _follow(machine, instruction.name, argument)
        if stream.read(1) or len(machine.stack) != 1:
            raise UnsafePickle("more follows its end")
        return _finished(machine.stack[0], MAX_DEPTH, [MAX_VALUES])
    except UnsafePickle:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError, MemoryError) as error:
        # pickletools raises the first for bytes that are no pickle, the others come of impossible programs.
        raise UnsafePickle(f"it is damaged or no pickle ({type(error).__name__})") from None


def names_in_pickle(data: bytes) -> list[str]:
    """Return the modules and functions that a pickle names, as `module.name`; nothing is looked up.

    A name that is not simply spelt out, or that comes after very many instructions, is told as such.
    """
    found: set[str] = set()
    memo: dict[int, str | None] = {}
    recent: list[str | None] = [None, None]
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            name, text = instruction.name, str(argument)
            if name in ("GLOBAL", "INST"):
                found.add(text.replace(" ", "."))
            elif name == "STACK_GLOBAL":
                module, attribute = recent
                found.add(f"{module}.{attribute}" if module and attribute else "(a name put together while opening)")
            if name in _STORES:
                memo[len(memo) if argument is None else int(text)] = recent[-1]
            elif name in _FETCHES:
                recent = [recent[-1], memo.get(int(text))]
            elif name not in ("PROTO", "FRAME"):
                recent = [recent[-1], argument if isinstance(argument, str) and name in _VALUES else None]
            if count > MAX_INSTRUCTIONS:
                found.add("(more than was looked at)")
                break
    except ValueError:
        found.add("(damaged)")
    return sorted(found)


def _follow(machine: _Machine, name: str, argument: Any) -> None:
    """Do what one instruction says."""
    stack = machine.stack
    if name in _VALUES:
        stack.append(_VALUES[name](argument))
    elif name in _ACTIONS:
        _ACTIONS[name](machine)
    elif name in _STORES[:3]:
        machine.memo[int(argument)] = stack[-1]
    elif name in _FETCHES:
        stack.append(machine.memo[int(argument)])
    elif name == "GLOBAL":
        stack.append(_known(argument))
    elif name not in ("PROTO", "FRAME"):
        raise UnsafePickle(f"it holds the instruction {name}, which data do not need")


def _known(name: str) -> _Name:
    if name not in _NAMES:
        raise UnsafePickle(f"it names {name.replace(' ', '.')!r}, which opening it would import and could run")
    return _Name(_NAMES[name])


def _stack_global(machine: _Machine) -> None:
    attribute, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(_known(f"{module} {attribute}"))


def _memoize(machine: _Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _reduce(machine: _Machine) -> None:
    """Make an array, dtype or number as the named function of numpy would."""
    arguments, name = machine.stack.pop(), machine.stack.pop()
    if not isinstance(name, _Name) or not isinstance(arguments, tuple):
        raise UnsafePickle("it calls what is no function of numpy's arrays")
    if name.what == _DTYPE:
        code = arguments[0]
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise UnsafePickle(f"it holds an array of type {str(code)[:20]!r}, not of plain numbers")
        result: Any = _Dtype(code)
    elif name.what == _ARRAY:
        result = _Array()
    elif name.what == _SCALAR:
        dtype, raw = arguments
        result = np.frombuffer(raw, dtype.numpy(), 1)[0]
        if len(raw) != result.nbytes:
            raise UnsafePickle("a number has more bytes than its type")
    elif name.what == _BUFFER:
        raw, dtype, shape, order = arguments
        result = _Array(_array(raw, dtype, shape, order == "F"))
    else:
        raise UnsafePickle("it makes an array without content")
    machine.stack.append(result)


def _build(machine: _Machine) -> None:
    """Give a dtype its byte order, an array its content."""
    state = machine.stack.pop()
    target = machine.stack[-1]
    if (
        isinstance(target, _Dtype)
        and isinstance(state, tuple)
        and state[1] in ("<", ">", "|", "=")
        and not any(state[2:5])
    ):
        target.order = state[1]
    elif isinstance(target, _Array) and target.value is None and isinstance(state, tuple):
        _, shape, dtype, is_fortran, raw = state
        target.value = _array(raw, dtype, shape, bool(is_fortran))
    else:
        raise UnsafePickle("it sets the state of what is no array of plain numbers")


def _array(raw: Any, dtype: Any, shape: Any, fortran: bool) -> np.ndarray[Any, Any]:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise UnsafePickle("it holds an array of something else than plain numbers")
    if len(shape) > 8 or not all(type(n) is int and n >= 0 for n in shape):
        raise UnsafePickle("it holds an array of an impossible shape")
    if math.prod(shape) * dtype.numpy().itemsize != len(raw):
        raise UnsafePickle("it holds an array with more or fewer bytes than its shape needs")
    array = np.frombuffer(raw, dtype.numpy()).reshape(shape, order="F" if fortran else "C")
    return array.astype(array.dtype.newbyteorder("="), order="K")


def _set_items(machine: _Machine) -> None:
    items, target = machine.since_mark(), machine.stack[-1]
    _mapping(target).update(zip(map(_key, items[::2]), items[1::2], strict=True))


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _mapping(machine.stack[-1])[_key(key)] = value


def _mapping(target: Any) -> dict[Any, Any]:
    if type(target) is not dict:
        raise UnsafePickle("it stores an entry in what is no dict")
    return target


def _key(key: Any) -> Any:
    if isinstance(key, tuple) and len(key) <= 256 and all(isinstance(part, int | str) for part in key):
        return key
    if not isinstance(key, int | str):
        raise UnsafePickle("a dict has a key that is neither text nor number")
    return key


def _append(machine: _Machine) -> None:
    value = machine.stack.pop()
    _list(machine.stack[-1]).append(value)


def _appends(machine: _Machine) -> None:
    items = machine.since_mark()
    _list(machine.stack[-1]).extend(items)


def _list(target: Any) -> list[Any]:
    if type(target) is not list:
        raise UnsafePickle("it appends to what is no list")
    return target


def _tuple(size: int | None) -> Callable[[_Machine], None]:
    def make(machine: _Machine) -> None:
        if size is None:
            machine.stack.append(tuple(machine.since_mark()))
            return
        if len(machine.stack) < size:
            raise UnsafePickle("it is damaged")
        items = machine.stack[len(machine.stack) - size :] if size else []
        del machine.stack[len(machine.stack) - size :]
        machine.stack.append(tuple(items))

    return make


def _make_list(machine: _Machine) -> None:
    machine.stack.append(machine.since_mark())


def _make_dict(machine: _Machine) -> None:
    items = machine.since_mark()
    machine.stack.append(dict(zip(map(_key, items[::2]), items[1::2], strict=True)))


def _finished(value: Any, depth: int, left: list[int]) -> Any:
    """Return a value with its arrays in place, copied, so that nothing is shared or contains itself."""
    left[0] -= 1
    if depth == 0 or left[0] < 0:
        raise UnsafePickle("it is nested too deep, contains itself, or holds too many values")
    if isinstance(value, _Array):
        if value.value is None:
            raise UnsafePickle("it holds an array without content")
        return value.value
    if isinstance(value, dict):
        return {key: _finished(item, depth - 1, left) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_finished(item, depth - 1, left) for item in value)
    if isinstance(value, _Name | _Dtype) or value is _MARK:
        raise UnsafePickle("it holds a function or type in place of a value")
    return value


_VALUES: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "MARK": lambda _: _MARK,
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), lambda number: number),
    **dict.fromkeys(("FLOAT", "BINFLOAT"), float),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), str),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), bytes),
}
"""Instructions that put a value on the stack, made from their argument."""

_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "STACK_GLOBAL": _stack_global,
    "MEMOIZE": _memoize,
    "REDUCE": _reduce,
    "BUILD": _build,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _appends,
    "TUPLE": _tuple(None),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "LIST": _make_list,
    "DICT": _make_dict,
}
"""Instructions that work on the stack."""
