"""Compare our methods with what published implementations computed.

    python tests/parity/run.py CASE.json [CASE.json ...] [--skip-unknown]

Prints one line per case and one per disagreement; exits with 1 on any disagreement or on a case of
a method that is not implemented (unless --skip-unknown is given), with 2 when no case was run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from adapters import ADAPTERS
from golden import mismatches


def check_case(path: Path) -> list[str]:
    """Return one line per disagreement of a case; raises KeyError for an unknown method."""
    case = json.loads(path.read_text())
    run = ADAPTERS[case["method"]]
    torch.manual_seed(0)
    return mismatches(case["outputs"], run(case))


def main(arguments: list[str]) -> int:
    """Check every case named on the command line and return the exit code."""
    skip_unknown = "--skip-unknown" in arguments
    paths = [Path(a) for a in arguments if a != "--skip-unknown"]
    failed = checked = 0
    for path in paths:
        method = json.loads(path.read_text())["method"]
        if method not in ADAPTERS:
            print(f"{path}: method {method!r} is not implemented")
            failed += not skip_unknown
            continue
        lines = check_case(path)
        checked += 1
        failed += bool(lines)
        print(f"{path}: {'agrees' if not lines else f'{len(lines)} disagreements'}")
        for line in lines:
            print(f"  {line}")
    if not checked and not failed:
        print(__doc__)
        return 2
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
