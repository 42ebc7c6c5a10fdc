"""`python -m gradsight.cli` is `gradsight`."""

from gradsight.cli import main

main()
