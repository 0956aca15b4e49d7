"""Tests of pipeline.server.middleware."""
