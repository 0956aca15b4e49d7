"""Folders of the user's cache. Each may be removed at any time.

The environment variable REELLAMA_CACHE names another folder for all of them.
"""

from __future__ import annotations

from reellama.gguf_tools.cache_root import cache_root

CACHE = cache_root()
ENCODED_FRAMES = CACHE / "encoded-frames"  # soft tokens of videos
KV_CACHE_STATES = CACHE / "read-prompts"  # KV caches of prompts with these soft tokens
FRAME_EMBEDDINGS = CACHE / "moments"  # embeddings of the frames of searched videos
TRUNK_FEATURES = CACHE / "trunk-features"  # features of training clips from an ImageNet network
EXPORTED_GRAPHS = CACHE / "graphs"  # ONNX graphs of bundles that came without
SHOWN_NOTICES = CACHE / "told"  # notices that are shown only once
