"""AnoVL: the method, its views and its test-time adaptation."""

from zsad.methods.anovl.method import AnoVL

__all__ = ["AnoVL"]
