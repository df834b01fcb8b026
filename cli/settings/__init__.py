"""The settings: one model behind the file, the environment, the flags and the documentation.

``model`` declares them, ``sources`` fills them in, ``options`` makes flags of them, and ``command``
is `twinline config`.
"""
