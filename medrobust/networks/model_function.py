"""A function as a network: what it computes, and the modules that it computes with."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

CODE = 12  # hex digits that tell one function from another


class ModelFunction(nn.Module):
    """A function of images, which holds the modules that it uses: they are frozen, moved and hashed with it.

    Modules are found in the function's closure, in the globals that it names, in the arguments of a ``partial``, and
    among the attributes of the object whose method or ``__call__`` it is. Others go on as they are, in the mode in
    which they are.

    Args:
        function: Maps images ``(N, C, H, W)`` to outputs, with a gradient.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        """Find its modules."""
        super().__init__()
        self.function = function
        found = dict.fromkeys(_modules_of(function))
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


def _modules_of(function: Any) -> Iterator[nn.Module]:
    """Modules that a function is made with, the same one perhaps several times."""
    if isinstance(function, nn.Module):
        yield function
        return
    if isinstance(function, functools.partial):
        for value in (function.func, *function.args, *function.keywords.values()):
            yield from _modules_of(value)
    elif isinstance(function, MethodType):
        yield from _held_by(function.__self__)
    elif isinstance(function, FunctionType):
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        named = [function.__globals__.get(name) for name in _names(function.__code__)]
        for value in (*cells, *named, *(function.__defaults__ or ())):
            if isinstance(value, nn.Module):
                yield value
            elif value is not function and isinstance(value, functools.partial | MethodType):
                yield from _modules_of(value)
    else:
        yield from _held_by(function)


def _held_by(value: Any) -> Iterator[nn.Module]:
    """An object itself, or the modules among its attributes."""
    if isinstance(value, nn.Module):
        yield value
        return
    for held in getattr(value, "__dict__", {}).values():
        if isinstance(held, nn.Module):
            yield held


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
    """What a function does, as text: its bytecode, constants and names."""
    while isinstance(function, functools.partial):
        yield repr([argument for argument in function.args if isinstance(argument, int | float | str)])
        function = function.func
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    yield name_of(function)
    if isinstance(code, CodeType):
        yield from _text_of(code)


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
