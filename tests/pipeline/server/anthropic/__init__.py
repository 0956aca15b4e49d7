"""Tests of pipeline.server.anthropic."""
