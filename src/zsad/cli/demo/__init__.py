"""``zsad demo``: a product from calibration to the line in six steps, then the table of all methods; one page."""

from zsad.cli.demo.command import main

__all__ = ["main"]
