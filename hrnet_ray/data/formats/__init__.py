"""Annotations of all kinds to instances; what is left out or odd is named."""
