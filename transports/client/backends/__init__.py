"""What the client engine waits, works and connects by: threads, or an asyncio event loop.

::

    threads           waits in the calling thread, on blocking sockets
    aio               tasks of an event loop
    aio_connection    a connection of an event loop, and what its tasks wait on
"""
