"""Study report: the best settings, their significance, and the cost of the search."""
