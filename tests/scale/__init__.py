"""Tests of scoring on a cluster."""
