"""The transport kit: sees whether a `Transport` keeps the contract, and says in words where not.

::

    from twinline.transports.conformance import check_transport

    print(check_transport(MyTransport()))

It needs no test framework. `bench` has what the rules work on, `samples` what they send, and
`noise` the bytes that are no frames.
These are the rules, each in the file that its group names; the contract is
`twinline.transports.contract`.

What goes in comes out (`codecs`):

1. Every request that a client sends arrives at the server, every field of it as it was.
2. Every reply that a server sends arrives at the client, every field of it as it was.
3. An error arrives with the id of its request, or with none if that could not be read.
4. The events depend on the bytes, never on how they were cut.
5. All frames of one piece come out at once, and what begins behind them is kept.
6. An id is any integer from 0 to 2^53-1, comes back as it was, and may be used again.
7. Any number of requests may be under way; they and their replies keep their order.
8. Two connections of one transport have nothing in common.
9. What data_to_send returned once is not returned again, and nothing is lost between.
10. What cannot be sent is LocalProtocolError; nothing of it goes out, the rest still does.

Where frames end, how long they may be, and what is fatal (`limits`):

11. mid_frame is true from a frame's first byte until its last, which brings its event.
12. The end of the stream drops what is left of a frame, and nothing else.
13. A frame of exactly the limit is taken; a longer one is FrameTooLarge, and fatal.
14. A limit that is changed between two events holds for the next, raised or lowered.
15. After a fatal event nothing more is yielded, whatever arrives.

What a frame costs (`costs`):

16. A frame that is too long is refused before it is collected, in bounded memory.
17. A frame costs time in proportion to its length, in however many pieces it comes.

Bytes that are no frames, and whose bytes they are (`bytes`):

18. Whatever bytes a client sends, the server's end yields requests or documented refusals.
19. Whatever bytes a server sends, the client's end yields replies or RemoteProtocolError.
20. Broken bytes too give the same events however they are cut.
21. A reply to a request that was not sent, or not to the oldest one, is an error.
22. A transport recognises how its own connections begin, and sooner or later says so.
23. A transport does not recognise a TLS hello, nor how another transport begins.
24. recognises() answers True, False or None for any bytes, and sticks to True and False.
25. What is said of a frame that is refused shows no password that was in it.

A request that is answered by a stream of replies (`streams`):

26. Each reply of a stream comes out when it is there, and the stream goes on while `more`.
27. A reply without `more` ends its stream, an error too; another one to its id is stray.
28. Requests behind a stream wait for its end, and are answered in their order.
29. However a stream is cut, it brings the same events, and the same error behind its end.
30. Only what continues is a stream: `more` of a page says nothing about other replies.

How a connection opens and ends, and what it says by itself (`ends`):

31. A client is opened by its handshake, however that is cut, and takes nothing before.
32. What end() says ends the other end, behind all that was said before; nothing follows.
33. Only a codec that is `unprompted` says what no message put in, or ends by itself.
"""

from collections.abc import Collection, Sequence
from random import Random
from typing import Final

from twinline.core.conformance import (
    ConformanceError,
    ConformanceReport,
    Failure,
    Progress,
    Rule,
    check_rules,
    rules_of,
)
from twinline.transports.conformance import bytes as broken_bytes
from twinline.transports.conformance import codecs, costs, ends, limits, streams
from twinline.transports.conformance.bench import TransportBench
from twinline.transports.contract import Transport

__all__ = ["RULES", "ConformanceError", "ConformanceReport", "Failure", "check_transport"]

RULES: Final[tuple[Rule[TransportBench], ...]] = rules_of(
    codecs, limits, costs, broken_bytes, streams, ends
)
"""The rules, by number."""
_PATIENCE_SECONDS: Final = 30.0  # for one rule; it takes one or two


def check_transport(
    transport: Transport,
    *,
    others: Sequence[Transport] = (),
    seed: int = 0,
    progress: Progress | None = None,
    slow: bool = False,
    only: Collection[str] | str = (),
) -> ConformanceReport:
    """Check every rule, and report all that do not hold.

    Args:
        transport: the one to check; it is asked for many codecs.
        others: transports that may share a port with it, whose beginnings it must not take for
            its own. JSON-lines takes nearly any text, so it cannot stand beside one that is text.
        seed: of the random cuts and bytes; the same one gives the same run.
        progress: called before each rule with how many are done, how many there are, and its
            sentence.
        slow: try ten times as much.
        only: the names of the rules to check, for work on one of them; none means all.

    Returns:
        What was checked.

    Raises:
        ValueError: ``only`` names a rule that there is not.
        ConformanceError: at least one rule does not hold.
    """
    patience = _PATIENCE_SECONDS * (10 if slow else 1)

    def bench(rule: Rule[TransportBench]) -> TransportBench:
        return TransportBench(transport, others, Random(f"{seed}/{rule.number}"), slow)  # noqa: S311

    subject = f"the transport {transport.name!r}"
    return check_rules(subject, RULES, bench, only=only, progress=progress, patience=patience)
