"""Storage and reading: numpy and files, no models."""

from .errors import DataError
from .samples import Samples

__all__ = ["DataError", "Samples"]
