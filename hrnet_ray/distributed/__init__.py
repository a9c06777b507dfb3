"""Ray: the pipeline, the workers, one training, many trainings. The only importer of ray."""
