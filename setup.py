"""Shim for setuptools: everything is declared in pyproject.toml but the packages, which cannot be said there.

configs/ is installed as jaxencoder/recipes, so that `jaxencoder train bert_base` works without a checkout.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["jaxencoder", "jaxencoder.*"]), "jaxencoder.recipes"],
    package_dir={"jaxencoder.recipes": "configs"},
)
