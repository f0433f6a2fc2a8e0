"""Contracts of the arrays, checks of the images, reference profiles."""
