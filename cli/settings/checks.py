"""What `twinline serve` looks at before it serves, and `twinline config check` without serving.

A check is a function of the settings: it raises `SettingsError` where a server must not run so, and
yields a sentence for whatever its operator should know. Both commands make the same ones, in the
same words.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from twinline.cli.console.errors import SettingsError
from twinline.cli.settings.model import Settings, refuse_exposure
from twinline.transports.endpoints import EndpointError
from twinline.transports.listener import check_proxies, server_tls
from twinline.transports.tls import TlsFiles, TlsFilesError, remarks


def check_exposure(settings: Settings) -> Iterable[str]:
    """Refuse what others could read on the way."""
    refuse_exposure(settings, (endpoint for endpoint, _ in settings.endpoints()))
    return ()


def check_certificates(settings: Settings) -> Iterator[str]:
    """Read what TLS needs, and see whether clients will take it."""
    made_of: dict[TlsFiles, None] = {}
    for endpoint, transport in settings.endpoints():
        try:
            tls = server_tls(endpoint, transport, settings)
        except TlsFilesError as error:
            raise SettingsError(str(error)) from None
        if tls is not None:
            made_of[tls.files] = None
    yield from remarks_on(made_of)


def check_proxied(settings: Settings) -> Iterable[str]:
    """Refuse to have peers named by proxies of which none is trusted."""
    for endpoint, _ in settings.endpoints():
        try:
            check_proxies(endpoint, settings)
        except EndpointError as error:
            raise SettingsError(str(error)) from None
    return ()


CHECKS: Final[tuple[Callable[[Settings], Iterable[str]], ...]] = (
    check_exposure,
    check_certificates,
    check_proxied,
)


def check_settings(settings: Settings) -> list[str]:
    """Make every check, and return what the operator should know.

    Raises:
        SettingsError: a server must not run so.
    """
    return [warning for check in CHECKS for warning in check(settings)]


def remarks_on(made_of: Iterable[TlsFiles]) -> list[str]:
    """Return what the operator should know of the files of TLS, each thing once."""
    found: dict[str, None] = {}
    for files in made_of:
        try:
            found |= dict.fromkeys(remarks(files))
        except TlsFilesError as error:
            found[str(error)] = None
    return list(found)
