"""Folders in the user's cache where what was computed is kept; each may be removed at any time.

REELLAMA_CACHE names another folder for them.
"""

from __future__ import annotations

from reellama.gguf_tools.cache_root import cache_root

CACHE = cache_root()
ENCODED_FRAMES = CACHE / "encoded-frames"  # videos that were looked at: their soft tokens
KV_CACHE_STATES = CACHE / "read-prompts"  # KV caches of LLMs that read these soft tokens
FRAME_EMBEDDINGS = CACHE / "moments"  # videos that were searched: embeddings of their frames
TRUNK_FEATURES = CACHE / "trunk-features"  # captioned clips: features of an ImageNet network
EXPORTED_GRAPHS = CACHE / "graphs"  # ONNX graphs of bundles that came without
SHOWN_NOTICES = CACHE / "told"  # notices that a terminal was shown once
