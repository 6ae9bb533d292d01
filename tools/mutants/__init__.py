"""Mutation testing: one small change of behaviour at a time in a copy of the product, and the tests that notice it."""
