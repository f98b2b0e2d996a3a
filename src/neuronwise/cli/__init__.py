"""The command line ``neuronwise``: every command calls one public function of the library."""

from neuronwise.cli.app import app, main

__all__ = ["app", "main"]
