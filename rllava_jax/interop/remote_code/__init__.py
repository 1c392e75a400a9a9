"""The Python files that travel in an exported Hugging Face folder, beside those that `remote_files.py` names."""
