"""What a mixer computes, written for a CPU, and the patch that puts it into a model."""
