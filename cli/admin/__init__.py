"""The operator's commands: they talk to the admin socket of a server that runs.

``client`` leads from a command's flags to the sockets, of one server or of several nodes.
``command`` is `twinline admin`, ``export`` its part that writes an account's data, ``top`` is
`twinline top` with its ``table``, and ``trace`` says where a message is.
"""
