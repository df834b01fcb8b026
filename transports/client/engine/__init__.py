"""The client engine: written once, as coroutines, for threads and for an event loop.

::

    engine        a client's parts put together, and the life of a session
    commands      the command connection: one request at a time
    watcher       the watch connection: fetches mail, hands it over, acks it
    inbox         messages between the watcher and the application
    dialler       opens connections, again and again if need be: where a lost one is mended
    link          the client's state, as a table of transitions
    connection    one connection: a codec, one exchange at a time
    replies       whether a reply can be the answer to its request
    backoff       the pace of attempts
    cancel        one-shot cancellation, and a lock in the order of arrival
    backend       what a backend must offer

It knows neither its backends nor the two clients.
"""
