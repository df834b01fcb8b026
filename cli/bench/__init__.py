"""`twinline bench`: how fast a server is on this machine, beside a floor."""
