"""Inputs, boxes and outputs of `hrnet-ray predict`."""
