"""The `faas` command: one file per noun. It speaks HTTP to a node; only `faas up` runs one.

Theory of operation. A verb is used dozens of times an hour, so what it imports matters (a test pins it): click, one
module for the verb, `exchange` to speak to the node. What only some uses of a verb need (TOML, zip files, guessing a
content type, rich's spinner) is imported where it is needed; the node and all it drags in only inside `faas up`, `faas
doctor` and `faas runtime build`. `app` finds the verb, `verb` says what verbs are made of, `client` is the API of a
node as a caller sees it, `out` is all that prints.

stdout carries the answer and nothing else; progress, hints and errors go to stderr. Exit codes: 0 ok, 1 failed,
2 usage. Errors are `CliError`s and say what happened, why, and what to do.
"""
