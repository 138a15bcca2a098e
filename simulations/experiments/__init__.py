"""What organs are worth, cost and tell, measured beside others; one module an experiment."""
