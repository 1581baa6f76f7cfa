"""Hardware generator for fully quantised and binary vision transformers."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("vitloom")
