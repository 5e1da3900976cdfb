"""Map the repository's top-level folders into the one import package `mimkit`."""

from setuptools import find_packages, setup

ROOTS = ("core", "datasets", "domains", "pipelines")
PARTS = [part for root in ROOTS for part in (root, *(f"{root}.{p}" for p in find_packages(root)))]

setup(
    packages=["mimkit", *(f"mimkit.{part}" for part in PARTS)],
    package_dir={"mimkit": "mimkit", **{f"mimkit.{root}": root for root in ROOTS}},
)
