"""Quality of the shapes model: a checker without neural networks, and the programs that use it."""
