"""`python -m deploy` is `nextclick`."""

from deploy.cli import main

main(prog_name="nextclick")
