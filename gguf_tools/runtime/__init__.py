"""llama.cpp, loaded safely: the AMX guard, models and contexts."""
