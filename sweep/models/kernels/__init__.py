"""Convolution, scan and norm of a mixer, written for CPUs, and the patch that puts them into a model."""
