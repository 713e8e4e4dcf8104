"""The command `hookd`, and `python -m hookd`.

What `hookd serve` imports takes up to a second; a stop must not find it without hands.
"""

import sys

from hookd.signals import Signals


def main() -> int:
    """Run the command line of this process."""
    signals = Signals() if sys.argv[1:2] == ["serve"] else None
    from hookd import cli

    return cli.main(signals=signals)


if __name__ == "__main__":
    sys.exit(main())
