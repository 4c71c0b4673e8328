"""Measurements that users can repeat: `nextclick bench …`."""
