"""Tests of models.projector.temporal_projector."""
