"""The `faas` command: one file per noun. It speaks HTTP to a node; only `faas up` runs one.

Theory of operation. A verb is used dozens of times an hour, so what it imports matters: at module level only typer and
the standard library's light parts (a test pins this). `http.client` speaks to the node (an HTTP library that does
more costs three times the start-up of the whole CLI), rich is loaded when there is something to animate, the node
and all it drags in only inside `faas up`, `faas doctor` and `faas runtime build`.

stdout carries the answer and nothing else; progress, hints and errors go to stderr. Exit codes: 0 ok, 1 failed,
2 usage. Errors are `CliError`s and say what happened, why, and what to do.
"""
