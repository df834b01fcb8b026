"""Transports, the listener that serves them, and the client that talks to it.

::

    contract       what a transport is: bytes in, messages out, and back
    jsonl          JSON-lines; cuts the stream at line feeds
    binary/        binary frames: cut by their header in frames.py, laid out in fields.py
    websocket/     either of them over WebSocket: its frames, and the HTTP before them
    web/           the chat page that a WebSocket endpoint serves to a browser
    auto           every transport on one port, chosen by a connection's first bytes
    registry       transports by name, the built-in and the installed ones
    foreign        peers that speak HTTP or TLS where something else is spoken
    endpoints      what to listen on and connect to: TCP, TLS, WebSocket and Unix sockets
    tls/           TLS as a layer under a codec, and what it is made from
    resolver       the addresses of an endpoint, looked up where that may be given up
    race           the race between those addresses: the first to connect wins
    connecting     how a thread connects: the resolver and the race, and the waits between
    wakeup         wakes a thread that waits for the bytes of its socket
    listener/      accepts connections and answers their requests, a thread for each
    client/        the client, on threads or asyncio, over one engine
    conformance/   the kit that checks a transport against the contract
"""
