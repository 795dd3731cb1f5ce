"""`python -m ovam`, and the command `ovam`."""

import signal


def main() -> None:
    """Entry point of the command.

    While libraries are loaded, Ctrl-C ends the process as it does others: nothing is to be put back yet, and Python
    would print where in those libraries it was.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ovam.cli import main as run

    run()


if __name__ == "__main__":
    main()
