"""What would trouble a run on this machine, each with the command that puts it right.

Nothing is changed, and nothing is asked over the network unless a server or a cluster is named.
`checks` has the table of what is asked; each check has its room beside it, and its time.
"""
