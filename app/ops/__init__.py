"""What an operator watches: the metrics of all worker processes, and whether the server is ready."""
