"""Recipes: of a sweep's cells, for every layer and site the choice that costs the network least under a budget."""
