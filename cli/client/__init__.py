"""The commands that talk to a server as one account: its session, its mail, its list of names."""
