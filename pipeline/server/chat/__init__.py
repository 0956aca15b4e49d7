"""Chats, independent of the protocol: requests, prompts, and answers as they are generated."""
