"""System 1: a video in, world features out."""
