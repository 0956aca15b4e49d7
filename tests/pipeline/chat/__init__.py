"""Tests of pipeline.chat.conversation."""
