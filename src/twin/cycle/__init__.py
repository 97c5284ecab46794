"""The stages put together: the only room that knows more than one of them.

`past` brings history, tasks and index up to date, `improvement` learns, judges and promotes,
`answers` locates with what is in service, `harness` proves commits by their tests. Does no work of
its own: each step is a call into a lower room, and its result is left in the store. Each module is
imported by who needs it: together they load far more than any of them.
"""
