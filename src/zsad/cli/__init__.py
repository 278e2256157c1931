"""The command ``zsad``: one module per command, each a parser and a thin call."""
