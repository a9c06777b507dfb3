"""Boxes for the poses, by a detector that the user has as an ONNX file."""
