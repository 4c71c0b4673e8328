"""Learns new versions from the clicks: windows, fine-tuning, the gate, publishing."""
