"""The tables of a comparison, whatever they are written as."""
