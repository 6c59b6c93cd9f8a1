"""The version, in a module without imports so that every other module may read it."""

__version__ = "0.2.0"
