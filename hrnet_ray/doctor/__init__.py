"""Diagnostic checks of this machine and of a cluster, each with the command that fixes a problem.

The checks change nothing, and use the network only for a server or a cluster that you name.
`registry` lists all checks with their timeouts.
"""
