"""What `hrnet-ray predict` looks at, where on it, and what it leaves."""
