"""The recipe of the views, their parameters, and their pixels."""
