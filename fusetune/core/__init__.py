"""What is true without a GPU, a file or a screen."""
