"""Tests of models.training.stages."""
