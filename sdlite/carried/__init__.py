"""What pictures carry about how they were made, in the forms of several programs."""
