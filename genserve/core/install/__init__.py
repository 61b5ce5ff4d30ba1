"""Puts models and LoRAs into their folders, and takes them out: what the `models` commands do."""
