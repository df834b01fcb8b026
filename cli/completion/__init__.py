"""`twinline completion`: commands, options and usernames by the Tab key.

``command`` prints the script of a shell, ``shells`` answers it, ``values`` knows the values.
"""
