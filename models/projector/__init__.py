"""The temporal projector, from features of frames to soft tokens, and their interpretation."""
