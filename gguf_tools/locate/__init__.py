"""Find the GGUF that a name means, in every program's store on this machine."""
