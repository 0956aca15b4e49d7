"""Tests of pipeline.server.openai."""
