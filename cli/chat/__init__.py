"""`twinline chat`: a prompt that incoming mail never garbles; the same rules in a pipe."""
