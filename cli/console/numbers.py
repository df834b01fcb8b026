"""Numbers on the command line that are finite: click's own types let NaN and infinity through."""

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A number within bounds."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; anything else is a usage error."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number
