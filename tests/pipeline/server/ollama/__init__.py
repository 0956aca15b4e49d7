"""Tests of pipeline.server.ollama."""
