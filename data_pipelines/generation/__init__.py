"""Questions and answers written from captions by a language model: prompts, requests, parsing, filters, review."""
