"""`python -m fastload.cli` is the `fastload` program."""

from fastload.cli import main

main()
