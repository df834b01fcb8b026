"""The settings: one model behind the file, the environment, the flags and the documentation.

``model`` declares them, ``sources`` fills them in, ``options`` makes flags of them, ``checks`` says
which a server does not run with, and ``command`` is `twinline config`.
"""
