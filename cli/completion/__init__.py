"""`twinline completion`: commands, options and usernames by the Tab key."""
