"""`twinline serve`, `store` and `demo`: a server, its process, and the file of its store."""
