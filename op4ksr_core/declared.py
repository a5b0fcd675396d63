"""Settings declared once: type, range, unit and help stand at the field, and the rest derives from them. No torch.

    @dataclass(frozen=True)
    class Example:
        sigma: float = setting(0.3, "The mid-timestep.", above=0, high=1)

        def __post_init__(self) -> None:
            check(self)

`check` judges an instance. `add_options` makes its command-line options and `given_options` reads them. `as_values` and
`from_values` go to JSON and back. Node inputs (`nodes/inputs.py`) and the documents' tables come from `declarations`.
"""

import argparse
import dataclasses
import difflib
import math
import numbers
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import SettingError

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What is declared of one field.

    `name`, `kind`, `count`, `optional`, `default`, and the `choices` of a Literal, come from the field itself.
    """

    help: str
    """What it does, in whole sentences: the option's help, the node's tooltip, the table's text."""

    low: float | None = None
    """The least value."""

    high: float | None = None
    """The largest value."""

    above: float | None = None
    """The value must be above this."""

    below: float | None = None
    """The value must be below this."""

    or_zero: bool = False
    """0 is allowed too, outside the range: it turns the setting off."""

    choices: tuple[str, ...] = ()
    """The words that it may be; a Literal's where the field is one."""

    unit: str = ""
    """For example px."""

    step: float | None = None
    """Step of a node's widget."""

    widget_high: float | None = None
    """Largest value of a node's widget where that is less than `high`."""

    option: str = ""
    """Name of the command-line option without dashes; the field's name where empty."""

    spellings: tuple[str, ...] = ()
    """Other names of the option."""

    inverted: bool = False
    """The option of this switch says the opposite of the field."""

    none_word: str = "none"
    """How None is written on the command line."""

    name: str = ""
    kind: type = str
    """bool, int, float, str, or the class of nested settings."""

    count: int = 0
    """Length of a tuple; 0 is a single value."""

    optional: bool = False
    """Whether it may be None."""

    default: Any = None

    @property
    def nested(self) -> bool:
        """Whether it is settings of its own."""
        return dataclasses.is_dataclass(self.kind)

    @property
    def words(self) -> tuple[str, ...]:
        """The choices of the command line; empty where there are none."""
        return (self.none_word, *self.choices) if self.optional and self.choices else self.choices

    @property
    def range(self) -> str:
        """What it may be, in words that follow `must be`; empty where everything of its type is allowed."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.low is not None and self.high is not None:
            words = f"from {_plain(self.low)} to {_plain(self.high)}"
        else:
            bounds = [("above", self.above), ("at least", self.low), ("below", self.below), ("at most", self.high)]
            words = " and ".join(f"{word} {_plain(bound)}" for word, bound in bounds if bound is not None)
        if self.unit and words:
            words += f" {self.unit}"
        return f"0 or {words}" if self.or_zero else words

    @property
    def widget_low(self) -> float | None:
        """The least value of a node's widget: a step above what the value must be above."""
        if self.or_zero:
            return 0
        return self.low if self.above is None else self.above + (self.step or 0)

    def check(self, value: Any) -> None:
        """Raises SettingError, which names the setting, the value and what is allowed."""
        if value is None and self.optional:
            return
        if not self.count:
            self._check_one(value)
            return
        if not isinstance(value, tuple) or len(value) != self.count:
            raise SettingError(f"{self.name} must be {self.count} values, got {value!r}.")
        for part in value:
            self._check_one(part)

    def _check_one(self, value: Any) -> None:
        if self.choices:
            check_choice(self.name, value, self.choices)
        elif not self._of_kind(value):
            raise SettingError(f"{self.name} must be {self._kind_words()}, got {value!r}.")
        elif self.kind in (int, float) and not self._in_range(value):
            words = self.range or "a finite number"
            raise SettingError(f"{self.name} must be {words}, got {value}.")

    def _of_kind(self, value: Any) -> bool:
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        wanted = {int: numbers.Integral, float: numbers.Real}.get(self.kind, self.kind)
        return isinstance(value, wanted)

    def _kind_words(self) -> str:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        word = words.get(self.kind, f"settings of the kind {self.kind.__name__}")
        return f"{word}, {self.range}" if self.range else word

    def _in_range(self, value: float) -> bool:
        if not -math.inf < value < math.inf:
            return False
        if self.or_zero and value == 0:
            return True
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def parse(self, text: str) -> Any:
        """One value of a command line. Raises argparse's ArgumentTypeError, so that the option is named."""
        if self.optional and text == self.none_word:
            return None
        try:
            value = self.kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {self._kind_words()}, got {text!r}") from None
        try:
            if self.choices:
                return check_choice(self.name, text, self.words)
            self._check_one(value)
        except SettingError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"{self.name} ")) from None
        return value

    def read(self, value: Any, base: Any = None) -> Any:
        """One value of JSON; nested settings keep what is left out as in `base`. Raises SettingError."""
        if self.nested and not (value is None and self.optional):
            return from_values(self.kind, value, base)
        value = tuple(value) if self.count and isinstance(value, list) else value
        self.check(value)
        return value

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return "--" + (self.option or self.name).replace("_", "-")

    @property
    def option_help(self) -> str:
        """The help with the range."""
        words = [self.range] if self.range and not self.choices else []
        words += [f"or {self.none_word}"] if self.optional and not self.choices else []
        return f"{self.help} ({' '.join(words)})" if words else self.help


def setting(default: Any, help: str, **declared: Any) -> Any:
    """A dataclass field with its declaration; the names are those of `Setting`. The default must be hashable, as frozen
    settings are."""
    return dataclasses.field(default=default, metadata=declare(help, **declared))


def declare(help: str, **declared: Any) -> dict[str, Setting]:
    """The metadata of a field without default: `px: int = field(metadata=declare("Length of a side.", low=1))`."""
    return {"setting": Setting(help, **declared)}


def declarations(cls: type) -> tuple[Setting, ...]:
    """The declared fields of a dataclass, in order."""
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(cls):
        if "setting" in field.metadata:
            found.append(_declaration(field, hints[field.name]))
    return tuple(found)


def _declaration(field: dataclasses.Field[object], hint: Any) -> Setting:
    declared: Setting = field.metadata["setting"]
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [one for one in typing.get_args(hint) if one is not type(None)]
        if len(kinds) != 1:
            raise TypeError(f"{field.name}: a setting has one type, perhaps with None, not {hint}.")
        optional, hint = True, kinds[0]
    choices, count = declared.choices, 0
    if typing.get_origin(hint) is typing.Literal:
        choices, hint = typing.get_args(hint), str
    if typing.get_origin(hint) is tuple:
        count, hint = len(typing.get_args(hint)), typing.get_args(hint)[0]
    return dataclasses.replace(
        declared, name=field.name, kind=hint, count=count, optional=optional, default=field.default, choices=choices
    )


def find_setting(cls: type, name: str) -> Setting:
    """The declaration of one field. Raises KeyError."""
    return {one.name: one for one in declarations(cls)}[name]


def check(settings: Any) -> None:
    """Raises SettingError on the first field whose value is not allowed. For `__post_init__`."""
    for one in declarations(type(settings)):
        one.check(getattr(settings, one.name))


def add_options(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    cls: type,
    leave_out: Collection[str] = (),
    prefix: str = "",
) -> None:
    """One option per field; nested settings have calls of their own, with a prefix (`prior-`) where names would clash.

    An option that is not given is not in the namespace, so that None can be given.
    """
    for one in declarations(cls):
        if not one.nested and one.name not in leave_out:
            add_option(parser, one, prefix)


def add_option(parser: argparse.ArgumentParser | argparse._ArgumentGroup, one: Setting, prefix: str = "") -> None:
    """The option of one setting."""
    flags = [f"--{prefix}{one.flag[2:]}", *(f"--{prefix}{other}" for other in one.spellings)]
    about: dict[str, Any] = {
        "dest": _dest(one, prefix),
        "default": argparse.SUPPRESS,
        "help": one.option_help.replace("%", "%%"),
    }
    if one.kind is bool:
        parser.add_argument(*flags, action=argparse.BooleanOptionalAction, **about)
        return
    if one.choices:
        about["metavar"] = "{" + ",".join(one.words) + "}"
    if one.count:
        about["nargs"] = one.count
    parser.add_argument(*flags, type=one.parse, **about)


def given_options(arguments: argparse.Namespace, cls: type, prefix: str = "") -> dict[str, Any]:
    """The values of the options that were given, by field."""
    given = {}
    for one in declarations(cls):
        if hasattr(arguments, _dest(one, prefix)) and not one.nested:
            value = getattr(arguments, _dest(one, prefix))
            value = tuple(value) if one.count else value
            given[one.name] = not value if one.inverted else value
    return given


def _dest(one: Setting, prefix: str) -> str:
    return prefix.replace("-", "_") + one.name


def as_values(settings: Any) -> dict[str, Any]:
    """Nested plain values, for JSON."""
    return dataclasses.asdict(settings)


def from_values(cls: type[T], values: Any, base: T | None = None) -> T:
    """The inverse of `as_values`. What is left out is as in `base`, or the default.

    Raises SettingError on a name that there is not and on a value that is not allowed.
    """
    if not isinstance(values, Mapping):
        raise SettingError(f"Settings are names with values, got {values!r}.")
    known = {one.name: one for one in declarations(cls)}
    changes = {}
    for name, value in values.items():
        if name not in known:
            raise SettingError(
                f"There is no setting {name!r} (its value: {value!r}). Remove it, or use one of {', '.join(known)}."
                + near(name, known)
            )
        changes[name] = known[name].read(value, getattr(base, name, None))
    return cls(**changes) if base is None else dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _plain(number: float) -> str:
    """A bound as a reader writes it."""
    if number == 2**64 - 1:
        return "2^64 - 1"
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> str:
    """Returns the value if it is one of the choices, else raises SettingError."""
    if value not in choices:
        raise SettingError(f"{what} must be one of {', '.join(choices)}, got {value!r}.{near(value, choices)}")
    return value


def near(value: str, choices: Iterable[str]) -> str:
    """`Did you mean ...?` where a choice is spelled alike, else nothing."""
    found = difflib.get_close_matches(str(value), list(choices), 1)
    return f" Did you mean {found[0]}?" if found else ""


def check_number(what: str, value: float) -> float:
    """Returns the value if it is a number, NaN and infinity among them, else raises SettingError."""
    if not isinstance(value, numbers.Real):
        raise SettingError(f"{what} must be a number, got {value!r}.")
    return value


def check_range(what: str, value: float, low: float, high: float) -> float:
    """Returns the number if it lies in [low, high], else raises SettingError (NaN lies nowhere)."""
    check_number(what, value)
    if not low <= value <= high:
        raise SettingError(f"{what} must lie in [{low:g}, {high:g}], got {value}.")
    return value
