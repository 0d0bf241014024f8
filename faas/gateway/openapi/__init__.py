"""The OpenAPI 3.1 description of every route: made by hand, and held to the routes by a test."""
