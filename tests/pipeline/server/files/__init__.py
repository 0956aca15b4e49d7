"""Tests of pipeline.server.files."""
