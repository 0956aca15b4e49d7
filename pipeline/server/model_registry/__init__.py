"""The models that clients can ask for: their names, manifests and blobs, and how one is found."""
