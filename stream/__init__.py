"""Kafka in, Kafka out: the worker that answers every click. The only package that imports faust."""
