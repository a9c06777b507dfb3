"""Cluster resources, autoscaling, the head-node monitor and Ray session folders."""
