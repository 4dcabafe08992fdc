"""Numbers with units, as a person writes them."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, isfinite, log10


def number(value: float, digits: int = 3) -> str:
    """Rounded to significant digits, thousands separated, no exponent where short.

    >>> number(12345.678), number(0.0123456), number(7), number(float("nan"))
    ('12,346', '0.0123', '7', 'n/a')
    """
    if not isfinite(value):
        return "n/a"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    decimals = digits - 1 - floor(log10(abs(value)))
    if decimals > 6:
        return f"{value:.{digits}g}"
    return f"{value:,.{max(0, decimals)}f}"


def share(part: float, whole: float) -> str:
    """A percentage that never rounds something to nothing or to all.

    >>> share(1, 3), share(1, 10**9), share(10**9 - 1, 10**9), share(0, 5), share(0, 0)
    ('33.3 %', '< 0.01 %', '> 99.99 %', '0 %', '0 %')
    """
    if part == 0 or whole == 0:
        return "0 %"
    if part == whole:
        return "100 %"
    percent = 100 * part / whole
    if percent < 0.01:
        return "< 0.01 %"
    if percent > 99.99:
        return "> 99.99 %"
    return f"{percent:.2f} %" if percent < 1 or percent > 99 else f"{percent:.1f} %"


def length(um: float) -> str:
    """A length in nm, um or mm.

    >>> length(0.5), length(20), length(2500)
    ('500 nm', '20 µm', '2.5 mm')
    """
    if um >= 1000:
        return f"{um / 1000:.3g} mm"
    if um < 1:
        return f"{um * 1000:.3g} nm"
    return f"{um:.3g} µm"


def volume(um3: float) -> str:
    """A volume in cubic micrometres or millimetres.

    >>> volume(523.6), volume(2.5e9)
    ('524 µm³', '2.50 mm³')
    """
    if um3 >= 1e6:
        return f"{number(um3 / 1e9)} mm³"
    return f"{number(um3)} µm³"


def duration(seconds: float) -> str:
    """A time in the two largest units.

    >>> duration(0.42), duration(75), duration(7384)
    ('0.42 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def product(values: Sequence[float]) -> str:
    """A shape or size.

    >>> product((64, 512, 512)), product((5.0, 0.8, 0.8))
    ('64 × 512 × 512', '5 × 0.8 × 0.8')
    """
    return " × ".join(f"{v:,}" if isinstance(v, int) else f"{v:.4g}" for v in values)


def plural(n: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "block"), plural(1200, "block")
    ('1 block', '1,200 blocks')
    """
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def plain(name: str, most: int = 60) -> str:
    """A name in one short printable line, for figures.

    >>> plain("x" * 99, 4)
    'xxx…'
    """
    line = "".join(c if c.isprintable() else " " for c in name)
    return line if len(line) <= most else f"{line[: most - 1]}…"
