"""What `twinline serve` does with the files of TLS: reads them again, and tells what they are like.

They are the `Part` of a listener that the ``reload`` door opens for.
"""

from collections.abc import Iterable, Sequence

from twinline.cli.server.reload import Outcome
from twinline.cli.settings.checks import remarks_on
from twinline.cli.settings.model import Settings
from twinline.transports.listener import Listener, TlsReload, tls_files
from twinline.transports.tls import TlsFiles, TlsFilesError, inspect


def files_of(settings: Settings) -> Iterable[str]:
    """Return every file of TLS that the settings name for their endpoints, each once."""
    made_of = (tls_files(endpoint, settings) for endpoint, _ in settings.endpoints())
    return _paths(files for files in made_of if files is not None)


class Certificates:
    """The files of TLS of a listener's endpoints."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def files(self) -> Iterable[str]:
        """See `Part`: every file of every endpoint, each once."""
        return _paths(files for _, files in self._listener.tls_files)

    def reload(self) -> Sequence[Outcome]:
        """See `Part`."""
        return [_outcome(each) for each in self._listener.reload()]

    def warnings(self) -> Iterable[str]:
        """See `Part`: what has expired or soon will, and what clients will not take."""
        return remarks_on(files for _, files in self._listener.tls_files)


def _paths(made_of: Iterable[TlsFiles]) -> Iterable[str]:
    return dict.fromkeys(path for files in made_of for path in files.paths)


def _outcome(done: TlsReload) -> Outcome:
    if done.error is not None:
        return Outcome(done.endpoint.place, kept=str(done.error))
    try:
        told = f"{done.files.certificate} is valid until {inspect(done.files).ends:%Y-%m-%d}"
    except TlsFilesError as error:  # its remark tells more
        told = str(error)
    if done.ended:
        told = f"{told}; sessions of revoked certificates that ended: {done.ended:,}"
    return Outcome(done.endpoint.place, told)
