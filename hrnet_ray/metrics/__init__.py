"""PCKh, OKS, AP and bootstrap intervals."""
