"""Tests of pipeline.server.responses."""
