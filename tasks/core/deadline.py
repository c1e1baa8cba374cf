"""A time of each day by which something is to be done: "07:00 Europe/Berlin"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Deadline:
    """A time of day in a time zone. Each day has it once, also where clocks change.

    A time that a day has twice is the first of both, and one that is skipped is that much later (02:30 is 03:30).
    """

    at: time
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Deadline:
        """Parse "HH:MM ZONE". Raises ValueError, which says what is expected."""
        matched = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)\s+(\S+)", text.strip())
        if not matched:
            raise ValueError("must be a time and a time zone, such as 07:00 Europe/Berlin")
        hours, minutes, zone = matched.groups()
        try:
            return cls(time(int(hours), int(minutes)), ZoneInfo(zone))
        except (KeyError, ValueError, OSError):  # unknown, no name of a zone, a folder of zones
            raise ValueError(f"there is no time zone {zone!r}; such as 07:00 Europe/Berlin") from None

    def on(self, day: date) -> datetime:
        """Return the moment on a day of the zone, in UTC."""
        return datetime.combine(day, self.at, self.zone).astimezone(UTC)

    def before(self, moment: datetime) -> datetime:
        """Return the latest deadline that is not after this moment, in UTC."""
        day = moment.astimezone(self.zone).date()
        return next(at for at in (self.on(day - timedelta(days=n)) for n in range(3)) if at <= moment)

    def clock(self, moment: datetime) -> str:
        """Show a moment as people in the zone do."""
        return f"{moment.astimezone(self.zone):%H:%M}"

    def __str__(self) -> str:
        return f"{self.at:%H:%M} {self.zone.key}"
