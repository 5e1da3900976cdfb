"""The run-time check of types and shapes in signatures, active in all tests (pyproject.toml)."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# As static checkers do, accept an int where a float is declared.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
