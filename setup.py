"""Finds the packages; all else is in pyproject.toml, which cannot: the root itself is a package."""

from setuptools import find_packages, setup

ROOMS = find_packages(exclude=["tests*", "tools*", "benchmarks*"])

setup(packages=["siamese_diffusion", *(f"siamese_diffusion.{room}" for room in ROOMS)])
