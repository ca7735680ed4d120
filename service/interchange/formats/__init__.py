"""The formats of imports and exports."""
