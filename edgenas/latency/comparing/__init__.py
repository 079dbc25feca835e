"""Two tables side by side, and what one says of its device."""
