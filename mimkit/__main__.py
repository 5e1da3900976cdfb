"""The command line: `mimkit VERB ...`, also as `python -m mimkit VERB ...`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run one verb and return its exit code (0 done, 1 bad data, 2 wrong usage)."""
    from mimkit.pipelines.cli import main as run  # here, so that importing this module stays light

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
