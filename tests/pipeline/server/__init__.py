"""Tests of pipeline.server."""
