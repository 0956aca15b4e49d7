"""Tests of pipeline.evaluation.tasks."""
