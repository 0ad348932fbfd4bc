"""Numbers as a reader wants them: three digits, with units, and never more exact than they are."""

from __future__ import annotations

import math

MISSING = "\N{EN DASH}"


def format_number(value: float | None, digits: int = 3) -> str:
    """`value` to `digits` significant format_number, without an exponent unless it is very large or small: `0.0123`, `12.3`, `1,234`."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "-\N{INFINITY}"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))  # 1 for 9.996 at three digits
    if not -5 <= magnitude <= 9:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(digits - 1 - magnitude, 0)}f}"


def milliseconds(value: float | None) -> str:
    return _unit(value, "ms")


def megabytes(value: float | None) -> str:
    """A size in units of 10^6 bytes: `0.587 MB`, or `2.56 KB` when it is small."""
    if value is not None and 0 < abs(value) < 0.1:
        return _unit(value * 1e3, "KB")
    return _unit(value, "MB")


def count(value: float | None) -> str:
    """A count, such as a number of parameters: `812`, `1.23K`, `328M`."""
    if value is None or not math.isfinite(value):
        return MISSING
    for factor, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= factor * 0.9995:
            return format_number(value / factor) + suffix
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(share: float | None, digits: int = 0) -> str:
    return MISSING if share is None or not math.isfinite(share) else f"{share * 100:.{digits}f}%"


def wilson_interval(share: float, number: int) -> tuple[float, float]:
    """The 95% confidence interval (Wilson 1927) of a proportion `share` of `number` samples."""
    z = 1.959964
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number)) / (1 + z * z / number)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def percent_with_interval(share: float | None, number: int, digits: int = 0) -> str:
    """`93% (85-97%)`: a proportion with its 95% confidence interval; without one if `number` is 0."""
    text = percent(share, digits)
    if text == MISSING or not number or not 0 <= share <= 1:
        return text
    low, high = wilson_interval(share, number)
    return f"{text} ({low * 100:.0f}\N{EN DASH}{high * 100:.0f}%)"


def plus_minus(value: float | None, deviation: float | None, digits: int = 4) -> str:
    """`-0.2358 \N{PLUS-MINUS SIGN} 0.0011`, or the value alone."""
    text = format_number(value, digits)
    known = text != MISSING and deviation is not None and math.isfinite(deviation)
    return f"{text} \N{PLUS-MINUS SIGN} {format_number(deviation, 2)}" if known else text


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 slot`, `2 slots`, `1,234 trials`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def join_words(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers inside `[low, high]`, at a step of 1, 2 or 5 times a power of ten; about `about` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / rough)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and 2 and 5 times them when few fall inside `[low, high]`."""
    if not 0 < low < high:
        return [low]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        values = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(values) >= 3:
            return values
    return values or [low]


def _unit(value: float | None, unit: str) -> str:
    text = format_number(value)
    return text if text == MISSING else f"{text} {unit}"
