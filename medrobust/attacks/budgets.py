"""Budgets: radii written as fractions, and checks of radii and numbers of steps."""

from medrobust.objectives.plain_numbers import plain


class Fraction(float):
    """A number that may be written as a fraction, ``"8/255"``, and remembers how it was written.

    Args:
        text: ``"a/b"``, a plain number as text, or a number.

    Raises:
        ValueError: The text is neither a number nor ``"a/b"`` with a non-zero ``b``.

    >>> Fraction("8/255") == 8 / 255, str(Fraction("8/255"))
    (True, '8/255')
    """

    text: str

    def __new__(cls, text: "str | float") -> "Fraction":
        """Read the number."""
        numerator, slash, denominator = str(text).partition("/")
        try:
            value = float(numerator) / float(denominator) if slash else float(numerator)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"expected a number or a fraction such as 8/255, got {text!r}") from None
        self = super().__new__(cls, value)
        self.text = str(text)
        return self

    def __str__(self) -> str:
        """Give the number as it was written."""
        return self.text

    def __reduce__(self) -> tuple[type["Fraction"], tuple[str]]:
        """Let copies and pickles keep the text."""
        return Fraction, (self.text,)


def check_radius(name: str, value: float, unit: str = "the [0, 1] image range", zero: bool = False) -> None:
    """Refuse a radius or step length outside (0, 1]; the usual slip is 8 instead of 8/255.

    Args:
        name: Name of the field.
        value: Its value.
        unit: Its unit, for the message.
        zero: Take 0 too, as a radius at which the clean images come back.

    Raises:
        ValueError: ``value`` is not a number in (0, 1].
    """
    if not isinstance(plain(value), int | float):
        raise ValueError(f"{name} is a number, got {value!r} (in Python write {name}=8 / 255)")
    if not (0 < value <= 1 or (zero and value == 0)):
        meant = f" (did you mean {value:g}/255?)" if 1 < value <= 255 else ""
        raise ValueError(f"{name} is in units of {unit} and lies in {'[' if zero else '('}0, 1], got {value:g}{meant}")


def check_steps(steps: int) -> None:
    """Refuse a number of steps that is not a whole number of at least 1.

    Raises:
        ValueError: ``steps`` is not a whole number of at least 1.
    """
    if not isinstance(plain(steps), int) or steps < 1:
        raise ValueError(f"steps counts gradient steps and is a whole number of at least 1, got {steps}")
