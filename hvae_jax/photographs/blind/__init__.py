"""The blur of a picture that nobody knows, estimated from the picture."""
