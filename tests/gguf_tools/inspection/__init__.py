"""Tests of gguf_tools.inspection.file_summary."""
