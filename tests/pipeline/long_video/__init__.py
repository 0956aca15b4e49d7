"""Tests of pipeline.long_video."""
