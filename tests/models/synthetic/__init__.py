"""Tests of models.synthetic."""
