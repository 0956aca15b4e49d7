"""The models that clients can use: names, manifests and blobs, and the lookup of a name."""
