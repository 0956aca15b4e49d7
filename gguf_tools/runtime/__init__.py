"""llama.cpp models and contexts, with a guard against the AMX crash."""
