"""`python -m ovam`, and the command `ovam`."""

import signal


def main() -> None:
    """Run the command line.

    While libraries are loaded, Ctrl-C ends the process at once, without a traceback: nothing has been changed yet that
    must be restored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ovam.cli import main as run

    run()


if __name__ == "__main__":
    main()
