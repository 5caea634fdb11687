"""A function as a network: what it computes, and the modules that it computes with."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

CODE = 12  # hex digits that tell one function from another
DEPTH = 4  # of containers and objects, one in the other, in which modules are looked for


class ModelFunction(nn.Module):
    """A function of images, which holds the modules that it uses: they are frozen, moved and hashed with it.

    Modules are found in the function's closure, in the globals that it names, in the arguments of a ``partial``, and
    among the attributes of the object whose method or ``__call__`` it is; also in lists and dictionaries that are
    found there, and in further functions. Others go on as they are, in the mode in which they are.

    Args:
        function: Maps images ``(N, C, H, W)`` to outputs, with a gradient.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        """Find its modules."""
        super().__init__()
        self.function = function
        found = dict.fromkeys(_modules_of(function, set()))
        inside = {inner for module in found for inner in module.modules() if inner is not module}
        self.used = nn.ModuleList(module for module in found if module not in inside)

    def forward(self, images: Tensor) -> Any:
        """What the function returns."""
        return self.function(images)

    def __deepcopy__(self, memo: Any) -> "ModelFunction":
        """Refuse a copy, in which the function would go on with its former modules."""
        raise TypeError("a function cannot be copied together with the modules that it uses")

    def description(self) -> dict[str, Any]:
        """The function's name, and a hash of its code, as plain values."""
        return {"network": name_of(self.function), "code": code_hash(self.function)}


def name_of(function: Any) -> str:
    """How tables name a function, or an object that is called like one."""
    while isinstance(function, functools.partial):
        function = function.func
    name = str(getattr(function, "__name__", type(function).__name__))
    return "function" if name == "<lambda>" else name


def code_hash(function: Any) -> str:
    """12 hex digits over the code of a function."""
    digest = hashlib.sha256()
    for part in _code_of(function):
        digest.update(part.encode())
    return digest.hexdigest()[:CODE]


def _modules_of(value: Any, seen: set[int], depth: int = DEPTH) -> Iterator[nn.Module]:
    """Modules that a value is made with, the same one perhaps several times; containers are opened so many times."""
    if id(value) in seen or depth < 0:
        return
    if isinstance(value, nn.Module):
        yield value
        return
    seen.add(id(value))
    for inner in _held_by(value):
        yield from _modules_of(inner, seen, depth - (not isinstance(value, FunctionType)))


def _held_by(value: Any) -> Iterator[Any]:
    """What a function, an object or a container holds, always in the same order."""
    if isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, FunctionType):
        if value.__module__ and value.__module__.partition(".")[0] == "torch":
            return
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        names = sorted(_names(value.__code__))
        named = [value.__globals__.get(name) for name in names]
        yield from named
        yield from (vars(one).get(name) for one in named if isinstance(one, ModuleType) for name in names)
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
    elif isinstance(value, list | tuple):
        yield from value
    elif isinstance(value, dict):
        yield from value.values()
    elif not isinstance(value, type | ModuleType | Tensor):
        yield from getattr(value, "__dict__", {}).values()
        yield vars(type(value)).get("__call__")


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a variable that has no value yet
        return False


def _names(code: CodeType) -> set[str]:
    """Globals that a function names, also in the functions inside it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _code_of(function: Any) -> Iterator[str]:
    """What a function does, as text: its bytecode, constants and names, and the plain values that it is made with."""
    while isinstance(function, functools.partial):
        yield repr([_plain(argument) for argument in function.args])
        yield repr([(name, _plain(value)) for name, value in sorted(function.keywords.items())])
        function = function.func
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    yield name_of(function)
    if isinstance(code, CodeType):
        yield from _text_of(code)
    if isinstance(function, FunctionType):
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        yield repr([_plain(value) for value in (*cells, *(function.__defaults__ or ()))])
        yield repr([(name, _plain(value)) for name, value in sorted((function.__kwdefaults__ or {}).items())])
        yield repr([_plain(function.__globals__.get(name)) for name in sorted(_names(function.__code__))])


def _plain(value: Any) -> Any:
    """A number, a text or a tensor's content, which tells one function from another; nothing of any other value."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return hashlib.sha256(value.detach().cpu().double().numpy().tobytes()).hexdigest()
    if isinstance(value, np.ndarray | np.generic):
        return hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str | None) else ""


def _text_of(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _text_of(constant)
        elif isinstance(constant, frozenset):
            yield repr(sorted(map(repr, constant)))  # whose order is another one in each process
        else:
            yield repr(constant)
