"""From a data set's records to batches of arrays."""
