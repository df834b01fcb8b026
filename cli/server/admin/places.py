"""Finds the admin sockets that are there: a server's own, or one of each node of several."""

import re
from pathlib import Path

from twinline.transports.endpoints import Endpoint


def found_places(admin_listen: str) -> list[Path]:
    """Return the sockets' files that are there, those of nodes by their numbers.

    They may be left over, from servers that were killed.
    """
    path = Path(Endpoint.parse(admin_listen).path)
    numbered = re.compile(re.escape(path.name) + r"\.(\d{1,3})")
    try:
        names = [each.name for each in path.parent.iterdir()]
    except OSError:
        # A directory that may be entered and not be listed: what is meant is there, or is not.
        return [path]
    of_nodes = filter(None, map(numbered.fullmatch, names))
    places = [path.with_name(each[0]) for each in sorted(of_nodes, key=lambda each: int(each[1]))]
    return [path, *places] if path.name in names or not places else places
