"""`python -m ovam`."""

from ovam.cli import main

main()
