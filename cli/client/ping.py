"""`twinline ping`: the way to the server and back, measured."""

from statistics import median
from typing import Any

import click

from twinline.cli.client.target import Target, client_options, whereabouts
from twinline.cli.console.command import command, option
from twinline.cli.console.output import say, write_json, write_line
from twinline.cli.console.shapes import RoundTrip


@command(example="twinline ping --count 10 --connect tcp://127.0.0.1:7767")
@option(
    "--count",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="NUMBER",
    help="Round trips.",
)
@client_options
def ping(count: int, as_json: bool, **options: Any) -> None:
    """Measure round trips to the server; no account is needed."""
    target = Target.of(options)
    times: list[float] = []
    with target.anonymous() as client:
        for number in range(1, count + 1):
            milliseconds = client.ping() * 1000
            times.append(milliseconds)
            if as_json:
                write_json(
                    RoundTrip(
                        number=number,
                        milliseconds=round(milliseconds, 3),
                        endpoint=client.endpoint.place,
                        node=client.node,
                    )
                )
            else:
                write_line(f"{whereabouts(client)} answered in {milliseconds:.2f} ms")
    if count > 1 and not as_json:
        say(f"fastest {min(times):.2f} ms, median {median(times):.2f}, slowest {max(times):.2f}")
