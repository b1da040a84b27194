"""Scales saved by Quamba and Quamba2 (github enyac-group/Quamba), as cells beside calibrated ones, and back."""
