"""Long videos: an index of what is seen when, timelines, search, and watched folders."""
