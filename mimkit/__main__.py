"""The command line: `mimkit VERB ...`, also as `python -m mimkit VERB ...`."""

from __future__ import annotations

import sys


def main() -> int | str | None:
    """Run one verb and return its exit code (0 done, 1 bad data, 2 wrong usage)."""
    from mimkit.pipelines.cli import main as run  # here, so that importing this module stays light

    code: int | str | None
    try:
        code = run(sys.argv[1:])
    except SystemExit as end:
        code = end.code
    distributed = sys.modules.get("mimkit.core.training.distributed")
    if distributed is not None:  # what was never imported met no other process
        distributed.end_process(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
