"""The commands of `nextclick`, by who uses them. Each reads settings, builds parts and calls them; no logic."""
