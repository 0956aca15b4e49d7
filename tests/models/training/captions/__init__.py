"""Tests of models.training.captions."""
