"""Services that a user might write instead, for a comparison."""
