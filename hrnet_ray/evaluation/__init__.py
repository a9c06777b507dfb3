"""What `hrnet-ray evaluate` finds out of a model, and how it is told."""
