"""Tests of pipeline.video.video_file."""
