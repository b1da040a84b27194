"""Methods: from what was observed to the interval that a format's codes are spread over."""
