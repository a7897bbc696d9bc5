"""The command line: ``xnowcast forecast``, ``xnowcast score`` and the others."""

from xnowcast.cli.commands import main

__all__ = ["main"]
