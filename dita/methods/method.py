"""What every acceleration is: a frozen dataclass of parameters that turns a model's shape into a plan."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

from dita.families import FAMILIES
from dita.merges import joined
from dita.methods.parameters import check_parameters
from dita.plan import Plan, Step, attention_stored, stored_step
from dita.shapes import Kind, Shape
from dita.values import check_fields, shown, unknown, whole

if TYPE_CHECKING:
    from dita.methods.tome import ToMe


MOST_STEPS = 10_000
"""Of a run: ten times the timesteps that models are trained on."""


LONGEST_REPR = 200
"""Characters of a parameter where a method is shown."""


class NothingToSkipWarning(UserWarning):
    """The method's cycle is so long, or the run so short, that every step is computed in full."""


@dataclass(frozen=True)
class Method:
    """A named acceleration with its parameters."""

    name: ClassVar[str]
    positional: ClassVar[tuple[str, ...]] = ()  # fields in the order in which `parse` reads them
    short_names: ClassVar[dict[str, str]] = {"full_steps": "full", "full_of": "of"}  # of fields, in the short form
    paper: ClassVar[str] = ""
    families: ClassVar[tuple[str, ...]] = tuple(FAMILIES)  # that it runs on
    extends: ClassVar[tuple[str, ...]] = ()  # those of them for which no publication defines it: dita's own extension
    why_not: ClassVar[str] = ""  # what the other families lack

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Method.__repr__  # type: ignore[method-assign]  # for `dataclass` not to write one

    def __repr__(self) -> str:
        """As Python that makes the method again: what identifies it, and what differs from the defaults.

        What would be longer than `LONGEST_REPR` characters is cut short.
        """
        fields = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))
        changed = {
            field.name: value
            for field, value in fields
            if value != field.default or (field.name in self.positional and value is not None)
        }
        given = (f"{name}={_cut(value)}" for name, value in changed.items())
        return f"{type(self).__name__}({', '.join(given)})"

    def __post_init__(self) -> None:
        """Checks the type of every field, and its range where it has one. Raises `ValueError`.

        So do the checks in each method of what depends on several fields.
        """
        check_fields(self)
        check_parameters(self)

    def plan(self, shape: Shape, steps: int, timesteps: Sequence[float] | None = None) -> Plan:
        """All actions of a run of `steps` denoising steps of the plain pipeline.

        timesteps: those of the run, 1000 to 0, for methods that go by them; the family's usual ones by default.
        Raises `ValueError` for `steps` below 1, for a family that the method is not for, and for parameters that do not
        fit the run.
        """
        raise NotImplementedError

    def check_family(self, family: str) -> None:
        """Raises `ValueError` for a family that the method is not for."""
        if family not in FAMILIES:
            raise unknown("family", family, FAMILIES)
        if family not in self.families:
            raise ValueError(
                f"{self.name} does not run on {family}: {self.why_not}; families: {', '.join(self.families)}"
            )

    def run_steps(self, steps: int) -> int:
        """How many steps the sampler takes when the plain pipeline would take `steps`."""
        return steps

    def grid_steps(self, steps: int) -> int:
        """How many steps the scheduler is asked for then, of whose grid the run may take some."""
        return self.run_steps(steps)

    @property
    def caching(self) -> Method:
        """The part that says what each site does in each step: the method itself, but for compositions."""
        return self

    @property
    def merging(self) -> ToMe | None:
        """The part that merges tokens, if any."""
        return None

    def on(self, device: str) -> Method:
        """The method as it is for a run on a device of this kind (`cpu`, `cuda` ...)."""
        return self

    def selects_live(self, shape: Shape) -> bool:
        """Whether tokens are selected in each cached step, not for a whole cycle at its full step."""
        return False

    def rescores(self, shape: Shape) -> bool:
        """Whether tokens that a cached step computes are scored again there."""
        return False

    def keeps_scores(self, shape: Shape) -> bool:
        """Whether collected scores are needed beyond the selection that follows them."""
        return False

    def shares_halves(self, shape: Shape) -> bool:
        """Whether the two halves of a guided call compute the same tokens."""
        return False

    def keeps_gates(self, shape: Shape) -> bool:
        """Whether a reused output gets the gate of the step that computed it, in place of today's."""
        return False

    def as_json(self) -> dict[str, Any]:
        """The method as JSON-ready data; `from_json` reads it back."""
        fields = dataclasses.asdict(self).items()
        return {"method": self.name, **{f: list(v) if isinstance(v, tuple) else v for f, v in fields}}

    def label(self) -> str:
        """The short form that `parse` reads back: the name and whatever differs from the defaults."""
        parts = [self.name]
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        changed = {f: v for f in defaults if (v := getattr(self, f)) != defaults[f] or f in self.positional}
        last = max((self.positional.index(f) for f in changed if f in self.positional), default=-1)
        while last >= 0 and getattr(self, self.positional[last]) == defaults[self.positional[last]]:
            last -= 1
        parts += [str(getattr(self, f)) for f in self.positional[: last + 1]]
        named = {f: v for f, v in changed.items() if f not in self.positional}
        parts += [f"{self.short_names.get(f, f)}={short(v, f)}" for f, v in named.items()]
        return ":".join(parts)


def _cut(value: Any) -> str:
    """A parameter as Python, or how many numbers it has."""
    text = repr(value)
    if len(text) <= LONGEST_REPR or (isinstance(value, tuple) and isinstance(value[0], Method)):
        return text
    return f"<{len(value)} items>" if isinstance(value, tuple) else f"{text[: LONGEST_REPR - 3]}..."


def short(value: Any, field_name: str = "") -> str:
    """A parameter as `parse` reads it: 2x2 of a size, 0/3/7 of steps, 0.9/0.8 of ratios, attn/mlp of names."""
    if field_name == "full_steps" and value is not None:
        return listed_steps(value)
    if isinstance(value, tuple):
        return joined(value) if all(isinstance(item, int) for item in value) else "/".join(map(str, value))
    return json.dumps(value).strip('"')


def checked_run(shape: Shape, steps: int) -> int:
    """The number of steps of a plan, as an int. Raises `ValueError` as `check_steps`, and for what is no shape."""
    if not hasattr(shape, "sites"):
        raise ValueError(
            f"a plan takes the shape of a model, such as dita.shapes.named_shape('flux-dev'), got {shown(shape)}"
        )
    return check_steps(steps)


def check_steps(steps: int) -> int:
    """`steps` as an int. Raises `ValueError` for a run without steps, or with more than `MOST_STEPS`."""
    count = whole("the number of steps", steps)
    if not 1 <= count <= MOST_STEPS:
        bound = "at least 1" if count < 1 else f"at most {MOST_STEPS}"
        raise ValueError(f"the number of steps must be {bound}, got {count}")
    return count


def listed_steps(steps: Sequence[int]) -> str:
    """Step numbers as one word: `0/3/7`."""
    return "/".join(map(str, steps))


def check_count(field_name: str, value: object, why: str = "", least: int = 1) -> None:
    """Raises `ValueError` unless `value` is a whole number, at least `least`."""
    whole(field_name, value, least, why=why)


Modules = Literal["all", "attention"]
MODULES: tuple[Modules, ...] = get_args(Modules)
"""What cached steps take from the store."""


def cached_step(shape: Shape, modules: Modules, kind: Kind) -> Step:
    """A cached step that takes what `modules` put out from the store, by `kind`, and computes the others."""
    if modules == "all":
        return stored_step(shape, kind)
    return {site: attention_stored(shape, site, kind) for site in shape.sites()}


_T = TypeVar("_T")


def check_choice(field_name: str, value: _T, allowed: tuple[_T, ...]) -> None:
    """Raises `ValueError` that lists what is allowed."""
    if value not in allowed:
        raise unknown(field_name, value, allowed)


def warn_of_a_plan_that_saves_nothing(plan: Plan, cycle: int, warmup: int) -> None:
    """Warns of a cycle above 1, or of chosen full steps, that leave every step full."""
    chosen = getattr(plan.method, "full_steps", None) is not None
    if (chosen or cycle > 1) and set(plan.kinds) == {Kind.FULL}:
        steps = len(plan.steps)
        why = f"the first {min(warmup, steps)} are full; take more steps, or a smaller warmup"
        warnings.warn(
            f"{plan.method.label()} saves nothing in {steps} steps:"
            f" {'all of them are full_steps; choose fewer' if chosen else why}",
            NothingToSkipWarning,
            stacklevel=4,
        )
