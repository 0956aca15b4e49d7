"""Tests of pipeline.cli."""
