"""Tests of pipeline.server.media.media_encoder."""
