"""What is in a data set: the parts of `python -m data_pipelines.inspect`."""
