"""Where a peer comes from that proxies stand before, and which proxies are believed.

A peer's address is what the socket says. Only a proxy of ``trusted_proxies`` may say another one,
and only for what it has seen itself; so the word of each is believed if what is known so far is a
trusted proxy, and what follows the first that is not is anybody's invention::

    the socket's address ──▶ the header of the PROXY protocol ──▶ X-Forwarded-For, from its end
         trusted?                 names a trusted proxy?            trusted? the one before it

Who is behind a proxy is not on this machine, whatever the proxy says: a peer that it calls
``127.0.0.1``, calls one of a Unix socket, or does not name, is `behind` it, and exempt from no
limit. Only the proxy's own connections, as it names them, or names nobody, are its own.
"""

from collections.abc import Callable, Sequence
from ipaddress import ip_address

from twinline.core.addresses import AddressSet, behind, canonical, is_local
from twinline.transports.listener.proxy import ProxyHeader


class Introduction:
    """Finds out who the peer of one connection is; used by the connection's owner.

    It is needed only until it is `known`.

    Attributes:
        address: where the peer comes from, as far as that is known.
        known: whether nothing else can change that.
        on_address: called when something has become known; returns whether the connection may go
            on. The listener sets it before the first byte is read.
    """

    __slots__ = ("_header", "_said", "_trusted", "address", "known", "on_address")

    on_address: Callable[["Introduction"], bool]

    def __init__(self, address: str, trusted: AddressSet, *, header: bool) -> None:
        """Begin with a proxy that is trusted.

        Args:
            address: of the proxy, as the socket has it.
            trusted: the proxies that are believed.
            header: whether the connection begins with a header of the PROXY protocol.
        """
        self.address = self._said = address
        self.known = False
        self._trusted = trusted
        self._header = ProxyHeader() if header else None

    @property
    def awaits_header(self) -> bool:
        """Whether the header has not wholly arrived; all else comes after it."""
        return self._header is not None

    @property
    def mid_header(self) -> bool:
        """Whether a part of the header has arrived."""
        return self._header is not None and self._header.begun

    def receive_data(self, data: bytes) -> bytes:
        """Take in what has arrived of the header, and return what lies behind it.

        Raises:
            ProxyHeaderError: there is no header, or one that says what cannot be.
        """
        header = self._header
        assert header is not None  # noqa: S101 - it is awaited
        data = header.receive_data(data)
        if header.whole:
            self._header = None
            if not header.own:
                self._take(header.address)
        return data

    def hear(self, forwarded_for: Sequence[str]) -> None:
        """Take in what the transport's handshake has said of proxies; then all is known.

        Args:
            forwarded_for: the entries of X-Forwarded-For, the nearest proxy's last; () if there
                are none. One that is no address ends the search, as one that is not trusted does.
        """
        said = self._said
        for entry in reversed(forwarded_for):
            address = forwarded_address(entry)
            if address is None:
                break
            said = address
            if address not in self._trusted:
                break
        if forwarded_for:
            self._take(said)
        self.known = True

    def tell(self) -> bool:
        """Tell the listener what has become known; return whether the connection may go on."""
        return self.on_address(self)

    def _take(self, said: str | None) -> None:
        """Go by what a trusted proxy has said, None if it has said nothing."""
        self.address = behind(self._said) if said is None or is_local(said) else said
        self._said = said or ""
        self.known = self._said not in self._trusted


def forwarded_address(entry: str) -> str | None:
    """Return the address in an entry of X-Forwarded-For, without its port; None if it has none.

    The header has no specification. Some proxies add the port: ``192.0.2.1:50000``, or
    ``[2001:db8::1]:50000``.
    """
    text = entry.strip()
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif text.count(":") == 1:
        text, colon, port = text.partition(":")
        if not _is_port(colon + port):
            return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A link of the proxy's machine says nothing here.
    return None if "%" in text else canonical(str(address))


def _is_port(text: str) -> bool:
    port = text[1:]
    return text[0] == ":" and port.isascii() and port.isdigit()
