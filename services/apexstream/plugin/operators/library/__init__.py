"""Transformations that plugins need again and again: text, CSV, JSON, samples, statistics."""
