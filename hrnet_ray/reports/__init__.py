"""HTML pages, figures and tables about data sets, studies and evaluations."""
