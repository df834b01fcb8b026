"""The client engine: written once, as coroutines, for threads and for an event loop."""
