"""mimkit: masked image modeling, written once and specialised by domain."""

__version__ = "0.1.0"
