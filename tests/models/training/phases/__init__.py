"""Tests of models.training.phases."""
