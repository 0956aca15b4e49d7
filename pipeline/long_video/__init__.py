"""Long videos: an index of frame embeddings, timelines, search, and watched folders."""
