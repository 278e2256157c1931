"""ALFA: the method, its prompts and the cleaning of a language model's answers."""

from zsad.methods.alfa.method import ALFA

__all__ = ["ALFA"]
