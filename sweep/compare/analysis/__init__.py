"""What differs between cells, whether it is more than noise, and what to take."""
