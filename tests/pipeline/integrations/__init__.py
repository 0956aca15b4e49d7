"""Tests of pipeline.integrations."""
