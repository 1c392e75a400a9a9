"""The process: hosts, interruption, memory, compiled programs."""
