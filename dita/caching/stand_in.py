"""Classes that stand in for the class of single instances, and do not outlive them in copies."""

from __future__ import annotations

import copy
import copyreg
import types
from typing import Any

OWN = "_dita"
"""What the names of attributes begin with that a stand-in gives its instances."""


class StandInType(type):
    """The type of a class that stands in for another, `_dita_base`, on some instances of it.

    It equals that class, as libraries look up and compare the types of components, makes instances of that one, and is
    pickled as that one. Classes that derive from a stand-in are classes of their own.
    """

    def __eq__(cls, other: object) -> bool:
        return isinstance(other, type) and stock_class(cls) is stock_class(other)

    def __hash__(cls) -> int:
        return hash(stock_class(cls)) if is_stand_in(cls) else type.__hash__(cls)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return stock_class(cls)(*args, **kwargs) if is_stand_in(cls) else super().__call__(*args, **kwargs)


class TransparentType(StandInType):
    """The type of a stand-in whose `__call__` and attributes, asked of the class, are those of the stock class.

    Libraries that change the class of an instance (`type(pipe).__call__ = ...`) so change, and change back, the stock
    one, whether dita is enabled or not.
    """

    def __getattribute__(cls, name: str) -> Any:
        own = type.__getattribute__(cls, "__dict__").get("_dita_own", ())
        if name in own:
            return getattr(stock_class(cls), name)
        return super().__getattribute__(name)

    def __setattr__(cls, name: str, value: Any) -> None:
        if is_stand_in(cls):
            setattr(stock_class(cls), name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        if is_stand_in(cls):
            delattr(stock_class(cls), name)
        else:
            super().__delattr__(name)


def stand_in(base: type[Any], body: dict[str, Any], transparent: bool = False) -> Any:
    """A subclass of `base` with what `body` has; name, module and all else stay."""
    kind: type[type] = TransparentType if transparent else StandInType
    if type(base) is not type:  # such as ABCMeta
        kind = types.new_class(kind.__name__, (kind, type(base)))
        copyreg.pickle(kind, _reduce_class)
    own = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce_ex,
        "__deepcopy__": _deepcopy,
        "_dita_base": base,
        "_dita_own": frozenset(body),
    }
    return kind(base.__name__, (base,), own | body)


def is_stand_in(cls: type) -> bool:
    """Whether `cls` itself was made by `stand_in`."""
    return "_dita_base" in type.__getattribute__(cls, "__dict__")


def stock_class(cls: type[Any]) -> type[Any]:
    """The class that `cls` stands in for; `cls` itself where it is none."""
    while is_stand_in(cls):
        cls = type.__getattribute__(cls, "__dict__")["_dita_base"]
    return cls


def _reduce_class(cls: type) -> Any:
    if is_stand_in(cls):
        return stock_class, (stock_class(cls),)
    return cls.__qualname__


copyreg.pickle(StandInType, _reduce_class)
copyreg.pickle(TransparentType, _reduce_class)


def _reduce_ex(self: Any, protocol: Any) -> Any:
    """What `copy` and `pickle` make a copy of: one of the stock class, without what the stand-in added."""
    own: Any = next(cls for cls in type(self).__mro__ if is_stand_in(cls))
    reduced = super(own, self).__reduce_ex__(protocol)
    if isinstance(reduced, str) or not is_stand_in(type(self)):
        return reduced
    make, args, *rest = reduced
    base = stock_class(type(self))
    if make is copyreg.__newobj__ and len(args) == 1:  # type: ignore[attr-defined]
        make, args = copyreg._reconstructor, (base, object, None)  # type: ignore[attr-defined]
    else:
        args = tuple(base if arg is type(self) else arg for arg in args)
    if rest and isinstance(rest[0], dict):
        rest[0] = {name: _stock_method(self, value) for name, value in rest[0].items() if not name.startswith(OWN)}
    return make, args, *rest


def _stock_method(self: Any, value: Any) -> Any:
    """`value`, or, of a method of the stand-in's that a hook keeps, the stock one."""
    if not isinstance(value, types.MethodType) or value.__self__ is not self:
        return value
    own = vars(type(self)).get(value.__func__.__name__)
    return types.MethodType(getattr(stock_class(type(self)), value.__func__.__name__), self) if own else value


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    """As `copy.deepcopy` has it; hooks in the copy keep the stock forward."""
    from dita.caching.class_swap import put_stock_forward

    own: Any = next(cls for cls in type(self).__mro__ if is_stand_in(cls))
    stock_deepcopy = getattr(super(own, self), "__deepcopy__", None)
    if stock_deepcopy is not None:
        return stock_deepcopy(memo)
    make, args, *rest = self.__reduce_ex__(4)
    copied = memo[id(self)] = make(*args)
    state = copy.deepcopy(rest[0], memo) if rest else None
    if hasattr(copied, "__setstate__"):
        copied.__setstate__(state)
    elif state:
        copied.__dict__.update(state)
    put_stock_forward(copied, type(self))
    return copied
