"""Map the repository's top-level folders into the one import package `mimkit`."""

from setuptools import find_packages, setup

ROOTS = ("core", "datasets", "domains", "pipelines")
PACKAGES = ["mimkit"] + [
    f"mimkit.{name}" for root in ROOTS for name in (root, *(f"{root}.{p}" for p in find_packages(root)))
]
setup(packages=PACKAGES, package_dir={"mimkit": "mimkit", **{f"mimkit.{r}": r for r in ROOTS}})
