"""Numbers as people read them."""

from __future__ import annotations

from datetime import UTC, datetime


def size(count: int | None) -> str:
    """A number of bytes: `98 MB`."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration(seconds: float | None) -> str:
    """A time span: `42 s`, `3 min 05 s`, `2 h 10 min`, `4 d 3 h`."""
    if seconds is None or seconds != seconds:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def clock(seconds: float | None) -> str:
    """A time that is left: `0:42`, `1:03:20`."""
    if seconds is None or seconds != seconds:
        return "-:--"
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(value: float | None) -> str:
    """A metric: four significant digits, small and large ones with an exponent."""
    if value is None:
        return "-"
    if value != value or value in {float("inf"), float("-inf")}:
        return str(value)
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def parse_time(text: str | float | int | None) -> datetime | None:
    """A time as the server writes it: RFC 3339, or seconds since 1970."""
    if text is None:
        return None
    if isinstance(text, int | float):
        return datetime.fromtimestamp(text, UTC)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def ago(text: str | float | int | None, now: datetime | None = None) -> str:
    """How long ago a time was: `3 min ago`."""
    then = parse_time(text)
    if then is None:
        return "-"
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    if seconds < 5:
        return "now"
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if seconds < limit:
            return f"{int(seconds // unit)} {name} ago"
    return f"{int(seconds // 86400)} d ago"


def moment(text: str | float | int | None, now: datetime | None = None) -> str:
    """A time to come, on this machine's clock: `14:20`, on another day `Tue 14:20`."""
    at = parse_time(text)
    if at is None:
        return "-"
    local, today = at.astimezone(), (now or datetime.now(UTC)).astimezone()
    return local.strftime("%H:%M" if local.date() == today.date() else "%a %H:%M")


def short(text: str, width: int) -> str:
    """The text in at most `width` characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
