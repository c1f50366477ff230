"""Magicoder's recipe as a config-driven experiment framework."""

__version__ = "0.1.0"
