"""What a user would write instead, for a comparison side by side."""
