"""The client engine: written once, as coroutines, for threads and for an event loop.

::

    engine        a client's parts put together, and the life of a session
    commands      the command connection: one request at a time
    watcher       the watch connection: the life of its worker, and what becomes of refusals
    streaming     a watcher that the server sends mail to as it comes
    stream        the rules of that: when to ask for more, when to ack
    paging        a watcher that fetches a page at a time, blocking or polling
    inbox         messages between the watcher and the application
    dialler       opens connections, again and again if need be: where a lost one is mended
    route         which server is next, where there are several
    link          the client's state, as a table of transitions
    connection    one connection: a codec, its exchanges and streams
    replies       whether a reply can be the answer to its request
    backoff       the pace of attempts
    cancel        one-shot cancellation, and a lock in the order of arrival
    backend       what a backend must offer

It knows neither its backends nor the two clients.
"""
