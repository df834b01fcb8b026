"""`python -m twinline.cli` is `twinline`."""

from twinline.cli.main import main

main(prog_name="twinline")
