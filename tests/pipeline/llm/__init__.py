"""Tests of pipeline.llm."""
