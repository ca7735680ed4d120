"""Data in and data out: imports and exports in the formats that others speak."""
